"""The learning-rate rule: recovered from losses whose optima are known, and refused where it cannot be one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from planner.corpus.store import Corpus
from planner.errors import DataError, InputError, PlannerWarning
from planner.recipe import Recipe
from planner.sweep import Sweep
from planner.tune import Probes, fit_rule, probe_sweep
from tests.train.shared import lay_out

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


def losses(optima: dict[int, float], rates: tuple[float, ...] = RATES) -> list[dict[str, Any]]:
    """Make probes whose loss is a parabola in ln rate around each size's optimum."""
    return [
        {"params_non_embedding": size, "learning_rate": rate, "loss_spec": 3 + 0.1 * math.log(rate / best) ** 2, "status": "ok"}
        for size, best in optima.items()
        for rate in rates
    ]


def test_the_rule_of_the_optima_is_found() -> None:
    body = fit_rule(losses({size: 5e-3 * (size / 1e5) ** -0.4 for size in (30_000, 100_000, 300_000)}), 1e5)
    assert body["rule"] == {"lr_coefficient": 0.005, "lr_exponent": 0.4, "lr_reference_params": 1e5}
    assert all(item["inside"] and abs(item["residual_percent"]) < 1e-6 for item in body["optima"])


def test_an_optimum_at_the_end_of_the_rates_is_said() -> None:
    rows = losses({30_000: 8e-3, 300_000: 5e-4})
    with pytest.warns(PlannerWarning, match="inside the rates probed at 300k parameters: the rule uses 0.001,"):
        assert [item["inside"] for item in fit_rule(rows, 1e5)["optima"]] == [True, False]


def test_a_rule_that_no_recipe_may_have_is_refused() -> None:
    """Two sizes so near that the noise between their optima is a power of -7."""
    with pytest.raises(InputError):
        Recipe(lr_exponent=-7.27)
    with pytest.raises(DataError, match="the rule fitted is not valid: .*lr_exponent = -7.27") as caught:
        fit_rule(losses({100_000: 3e-3, 110_000: 6e-3}), 1e5)
    assert "farther apart" in caught.value.remedy


def test_probes_that_cannot_be_told_apart_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rates of 0.001, 0.001001, 0.002 are equal to three digits"):
        Probes((1e4, 2e4), (1e-3, 1.001e-3, 2e-3), 1e4, 1e4)
    text = 'sizes = ["10k"]\ntokens_pt = ["21k"]\ntokens_spec = ["13.5k"]\nunique_spec = ["all"]'
    sweep = Sweep.open(lay_out(tmp_path / "tiny", corpus, text))
    one = Probes((1e4, 1.01e4), RATES, 1e4, 1e4)
    with pytest.raises(InputError, match="two of the sizes give the same model: 10k is 10.19k, 10.1k is 10.19k parameters"):
        probe_sweep(sweep, one, {size: one.rates for size in one.sizes})
