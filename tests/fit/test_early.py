"""The worth of early specialist text: a known one is found again, from rows that the law itself never sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from planner.errors import PlannerWarning
from planner.fit.early import Early
from planner.fit.fit_early import with_early
from planner.fit.fitted import FittedLaw
from planner.runs import SCHEMA
from tests.conftest import true_log_loss

WORTH = 0.6


def table(noise: float, worth: float = WORTH) -> pd.DataFrame:
    """Runs with early text only, and with a stage after it, whose truth is known."""
    random = np.random.default_rng(3)
    rows = []
    for params in (4e4, 8e4, 1.6e5):
        for share in (0.05, 0.15, 0.3):
            for late in (0.0, 2e5):
                early = 9e5 * share / (1 - share)
                log_loss = float(true_log_loss([params], [9e5], [late + worth * early], [2e5])[0]) + noise * random.normal()
                rows.append(
                    {"run_id": f"{params}-{share}-{late}", "branch_kind": "stable" if late else "mixed", "params_non_embedding": params,
                     "params_total": params, "tokens_pt": 9e5, "tokens_spec": early + late, "unique_spec": 2e5, "early_fraction": share,
                     "loss_spec": np.exp(log_loss), "flags": "", "status": "ok"}
                )  # fmt: skip
    return pd.DataFrame(rows, columns=list(SCHEMA))


def test_a_known_worth_is_found(fitted: FittedLaw) -> None:
    found = with_early(fitted, table(0.005)).early
    assert found is not None and (found.rows, found.low, found.high) == (9, 0.05, 0.3)
    low, high = np.quantile(found.resamples, [0.05, 0.95])
    assert low < WORTH < high and high / low < 2.5, (low, high)
    assert found.off_percent < 1.5 and found.stages_off_percent is not None and found.stages_off_percent < 2


def test_a_wrong_worth_is_told_apart(fitted: FittedLaw) -> None:
    found = with_early(fitted, table(0.005, worth=1.5)).early
    assert found is not None and np.quantile(found.resamples, 0.05) > 1.0


def test_the_file_keeps_it(fitted: FittedLaw, tmp_path: Path) -> None:
    law = with_early(fitted, table(0.005))
    law.save(tmp_path / "law.json", {})
    read = FittedLaw.load(tmp_path / "law.json").early
    assert isinstance(read, Early) and law.early is not None
    assert np.allclose(read.resamples, law.early.resamples, rtol=1e-5) and replace(read, resamples=law.early.resamples) == law.early


@pytest.mark.parametrize("factor", [0.5, 1.6])
def test_runs_that_no_worth_describes_are_said(fitted: FittedLaw, factor: float) -> None:
    frame = table(0.005)
    with pytest.warns(PlannerWarning, match="no worth of early specialist text fits"):
        assert with_early(fitted, frame.assign(loss_spec=frame["loss_spec"] * factor)).early is None


def test_runs_of_another_method_are_not_mixed_in(fitted: FittedLaw) -> None:
    frame = table(0.005)
    others = frame[frame["branch_kind"] == "stable"].assign(method="lora", loss_spec=9.0)
    others["run_id"] += "-lora"
    found, plain = (with_early(fitted, rows).early for rows in (pd.concat([frame, others], ignore_index=True), frame))
    assert found is not None and plain is not None and found.stages_off_percent == plain.stages_off_percent


def test_a_law_of_adapters_has_the_worth_of_runs_without_a_stage(fitted: FittedLaw) -> None:
    found = with_early(replace(fitted, source={**fitted.source, "method": "lora"}), table(0.005)).early
    assert found is not None and found.rows == 9 and found.stages_off_percent is None


def test_too_few_runs_are_said(fitted: FittedLaw) -> None:
    with pytest.warns(PlannerWarning, match="left out of the fit"):
        assert with_early(fitted, table(0.005).iloc[:4]).early is None


def test_runs_with_a_stage_after_early_text_are_said_not_to_measure_it(fitted: FittedLaw) -> None:
    frame = table(0.005)
    stages = frame[frame["branch_kind"] == "stable"]
    with pytest.warns(PlannerWarning, match=rf"{len(stages)} runs .* without a specialist stage \(tokens_spec = 0\), and the table has 0"):
        assert with_early(fitted, stages).early is None
