"""Tables that cannot tell a law's parameters apart are refused or warned of, each with its own sentence."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from planner.errors import DataError, InputError, PlannerWarning
from planner.fit.data import FitData
from planner.fit.fit import fit
from planner.fit.identify import check, reason_against
from planner.fit.select import candidates
from planner.fit.support import TOTAL, Support
from planner.laws import LAWS, Law
from planner.laws.base import exponent
from planner.laws.dual import log


def table(params: list[float], pt: list[float], spec: list[float], unique: list[float]) -> FitData:
    n, d, s, u = (grid.ravel() for grid in np.meshgrid(params, pt, spec, unique, indexing="ij"))
    keep = d + s > 0
    n, d, s, u = n[keep], d[keep], s[keep], u[keep]
    ids = [str(k) for k in range(len(n))]
    return FitData(ids, {"non_embedding": n}, d, s, np.where(s > 0, u, np.nan), np.full(len(n), 1.0), 6 * n * (d + s), np.arange(len(n)), None)


SIZES, TOKENS, SPECIAL, TEXT = [1e4, 3e4, 1e5, 3e5], [0.0, 1e6, 3e6, 9e6], [0.0, 2e5, 8e5, 3e6], [1e5, 1e6]


def test_a_good_table_passes_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(table(SIZES, TOKENS, SPECIAL, TEXT))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (table(SIZES[:2], TOKENS, SPECIAL, TEXT), "2 distinct model sizes"),
        (table([1e5, 1.01e5, 1.02e5, 1.03e5], TOKENS, SPECIAL, TEXT), "1 distinct model size,"),
        (table(SIZES, TOKENS[1:3], [0.0], [1.0]), "2 distinct token counts"),
        (table(SIZES, [1e6], SPECIAL, TEXT), "one value of tokens_pt"),
        (table(SIZES, TOKENS, [1e6], TEXT), "one value of tokens_spec; vary"),
        (table(SIZES, TOKENS, [0.0, 1e6], TEXT), "one value of tokens_spec other than zero; vary"),
    ],
    ids=["two sizes", "one size in disguise", "two token counts", "one general amount", "one specialist amount", "one beside zero"],
)
def test_refusals(data: FitData, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(data)


def test_tokens_in_step_with_size_are_refused() -> None:
    data = table(SIZES, [1e6, 2e6, 4e6], [0.0], [1.0])
    with pytest.raises(DataError, match="same tokens per parameter"):
        check(replace(data, tokens_pt=20 * data.params))


def test_specialist_tokens_in_step_with_general_ones_are_refused() -> None:
    data = table(SIZES, TOKENS[1:], [1e5], TEXT)
    with pytest.raises(DataError, match="same tokens_spec / tokens_pt"):
        check(replace(data, tokens_spec=0.1 * data.tokens_pt))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (table([1e5, 2e5, 4e5], TOKENS, SPECIAL, TEXT), "under a decade"),
        (table(SIZES, TOKENS, SPECIAL, [1e7]), "more than one epoch"),
        (table(SIZES, TOKENS, SPECIAL, [1e5]), "the same amount of distinct"),
        (table(SIZES, TOKENS[1:3], SPECIAL, TEXT), "2 values of tokens_pt"),
        (table([10.0, 100.0, 1000.0], TOKENS, SPECIAL, TEXT), "have 100 parameters or fewer: are sizes and tokens in thousands or millions"),
    ],
    ids=["under a decade", "one epoch", "one amount of text", "exponent and offset", "sizes in millions"],
)
def test_warnings(data: FitData, message: str) -> None:
    with pytest.warns(PlannerWarning, match=message):
        check(data)


@pytest.mark.parametrize("alone", ["tokens_pt", "tokens_spec"])
def test_runs_of_one_stage_alone_tell_the_effects_of_one_ratio_apart(alone: str) -> None:
    """So such a table is warned of, not refused."""
    data = table(SIZES, TOKENS[1:], [0.0, 1e5], TEXT)
    lone, tied = data.tokens_spec == 0, 0.1 * data.tokens_pt
    if alone == "tokens_pt":
        rows = replace(data, tokens_spec=np.where(lone, 0.0, tied))
    else:
        rows = replace(data, tokens_pt=np.where(lone, 0.0, data.tokens_pt), tokens_spec=tied, unique_spec=np.where(lone, 1e5, data.unique_spec))
    with pytest.warns(PlannerWarning, match="nearly every run with both stages has tokens_spec / tokens_pt = 0.1:"):
        check(rows)


def test_nearly_one_ratio_is_warned_of() -> None:
    data = table(SIZES, TOKENS[1:], [1e5], TEXT)
    jitter = np.exp(0.04 * np.random.default_rng(0).normal(size=data.count))
    with pytest.warns(PlannerWarning, match="nearly every run with both stages has tokens_spec / tokens_pt = 0.(1|099):"):
        check(replace(data, tokens_spec=0.1 * data.tokens_pt * jitter))


@pytest.mark.parametrize("off", [0, 2])
def test_general_tokens_in_step_with_size_are_warned_of(off: int) -> None:
    """A run or two on another ratio do not hide it."""
    data = table(SIZES, TOKENS[1:], SPECIAL, TEXT)
    tied = 20 * data.params * np.exp(0.03 * np.random.default_rng(0).normal(size=data.count))
    tied[:off] *= 4
    with pytest.warns(PlannerWarning, match="nearly every run has 20 general tokens per parameter"):
        check(replace(data, tokens_pt=tied))


def test_as_many_tokens_in_all_of_every_run_are_warned_of_and_others_are_new_ground() -> None:
    """Each stage has many values, and yet no run says what half of all tokens do."""
    data = table(SIZES, TOKENS[1:], SPECIAL, TEXT)
    tied = replace(data, tokens_pt=2 * data.tokens_spec.max() - data.tokens_spec)
    with pytest.warns(PlannerWarning, match="nearly every run has .* tokens in both stages together"):
        check(tied)
    support, row = Support.of(tied), int(np.argmax(tied.tokens_spec))
    here = (tied.params[row], tied.tokens_pt[row], tied.tokens_spec[row], tied.unique_spec[row])
    assert support.distance(*here) == pytest.approx(0)
    half = (here[0], 0.5 * here[1], 0.5 * here[2], 0.5 * here[3])
    assert support.distance(*half) >= np.log(2) - 1e-9 and TOTAL not in Support.of(data).low
    assert support.joined(support) == support


@pytest.mark.parametrize("scatter", [0.03, 0.1])
def test_tokens_of_one_stage_nearly_in_step_with_size_are_warned_of(scatter: float) -> None:
    data = table(list(np.geomspace(1e7, 1e9, 24)), [1e9], [0.0], [1.0])
    tied = 20 * data.params * np.exp(scatter * np.random.default_rng(1).normal(size=data.count))
    with pytest.warns(PlannerWarning, match="nearly every run has (19|20|21) tokens per parameter: the effects of size and of tokens"):
        check(replace(data, tokens_pt=tied, flops=6 * data.params * tied))


def test_runs_of_one_budget_are_warned_of() -> None:
    """Along one curve of equal compute, but for two runs."""
    data = table(list(np.geomspace(1e7, 1e9, 24)), [1e9], [0.0], [1.0])
    flops = 1e18 * np.exp(0.1 * np.random.default_rng(0).normal(size=data.count))
    flops[:2] *= 8
    with pytest.warns(PlannerWarning, match="nearly every run costs (1|1.1|9.[0-9])e.1[78] FLOPs"):
        check(replace(data, tokens_pt=flops / 6 / data.params, flops=flops))


def test_a_grid_of_one_stage_passes_in_silence() -> None:
    check(table([1e7, 1e8, 1e9], [5e9, 1e10, 2e10], [0.0], [1.0]))


@pytest.mark.parametrize("passes", [3.0, 16.0])
def test_the_same_passes_in_every_run_are_warned_of(passes: float) -> None:
    data = table(SIZES, TOKENS, SPECIAL, TEXT)
    scatter = np.exp(0.01 * np.random.default_rng(0).normal(size=data.count))
    with pytest.warns(PlannerWarning, match=f"makes {passes:.2g} passes over it"):
        check(replace(data, unique_spec=data.tokens_spec / passes * scatter))


def test_laws_that_the_rows_cannot_carry_are_no_candidates() -> None:
    fresh, one_text, small = table(SIZES, TOKENS, SPECIAL, [1e7]), table(SIZES, TOKENS, SPECIAL, [1e5]), table(SIZES[:3], TOKENS[:2], SPECIAL[:3], [1e5])
    penalised = LAWS["transfer-penalised"]
    assert "passes" in str(reason_against(penalised, fresh))
    assert "fewer than two amounts" in str(reason_against(penalised, one_text))
    assert "parameters" in str(reason_against(penalised, small))
    assert reason_against(penalised, table(SIZES, TOKENS, SPECIAL, TEXT)) is None
    with pytest.raises(DataError, match="these runs cannot identify any law: root-near-saturating has 12 runs for 7 parameters, and needs at least 14"):
        candidates(small.rows(np.arange(small.count) < 12))
    assert penalised not in candidates(fresh) and LAWS["transfer-saturating"] in candidates(fresh)


def test_the_general_loss_of_one_stage_is_refused_alike_whatever_the_law() -> None:
    """Two refusals once sent in a circle, from forgetting to a law of one stage and from there to another loss."""
    data = replace(table(SIZES, [1e6, 3e6, 9e6, 3e7], [0.0], [1.0]), target="general")
    for law in ("auto", "forgetting", "chinchilla"):
        message = "the runs have one stage, and every law of the general loss needs two; .* --map loss_spec=loss_general instead"
        with pytest.raises(DataError, match=message):
            fit(data, law, resamples=20)
    with pytest.raises(DataError, match="forgetting needs two stages, and the runs have one"):
        fit(replace(data, target="spec"), "forgetting", resamples=20)


def test_where_no_law_gives_a_number_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Law("mine", "ln(ln N)^α", (exponent("α"),), lambda p, x: log(x.log_n) * p["α"], "here", "never", stages=1, target="general")
    monkeypatch.setattr("planner.fit.select.LAWS", {"mine": mine})
    data = replace(table(SIZES, [1e6, 3e6, 9e6, 3e7], [0.0], [1.0]), target="general")
    with pytest.warns(PlannerWarning, match="mine gives no number"), pytest.raises(DataError, match="no law for this kind of table gives a number"):
        candidates(data)


def test_a_wrong_scheme_of_resampling_is_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="no resampling scheme 'bayes'; choose one of auto, multinomial, fractional"):
        fit(table(SIZES[:1], TOKENS, SPECIAL, TEXT), scheme="bayes")  # a table that carries no law


@pytest.mark.filterwarnings("ignore:the law leaves")  # and rightly: one of one stage fits runs of two badly
def test_a_law_of_another_kind_of_table_is_refused(synthetic: FitData) -> None:
    with pytest.raises(InputError, match="general loss"):
        fit(synthetic, "forgetting")
    with pytest.raises(DataError, match="repeats"):
        fit(synthetic, "data-constrained")
    with pytest.raises(DataError, match="two stages"):
        fit(table(SIZES, [1e6, 3e6, 9e6, 3e7], [0.0], [1.0]), "transfer-saturating")
    with pytest.warns(PlannerWarning, match="does not distinguish"):
        fit(synthetic, "chinchilla", resamples=20, largest=False)
