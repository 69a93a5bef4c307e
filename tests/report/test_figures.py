"""Figures draw what they are given, say what they draw, and stand tables of one stage and single runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.base import Base
from planner.allocate.bases import allocate_bases
from planner.allocate.domains.allocate import allocate_domains
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.extrapolation import outside
from planner.allocate.isoflop import IsoFlop, iso_flops
from planner.allocate.isoflop import iso_flop as iso_flop_of
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.fit.data import FitData
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.fit.profile import Profile, profile
from planner.method import Method
from planner.report import fit_page
from planner.report.bases import bases
from planner.report.choice import law_scores, profiles, start_agreement
from planner.report.domains import MOST_DOMAINS, domains
from planner.report.law import size_slices, token_slices
from planner.report.learning_rates import learning_rates
from planner.report.plans import iso_flop, iso_flop_shares, size_curve, split_curve
from planner.report.residuals import ALONG, _groups, forecasts, holdout, residuals
from planner.report.style import log_counts, sheet
from planner.units import format_count

BUDGETS = [1e12, 4e12]
SWEEPS = Path(__file__).parents[2] / "sweeps"


@pytest.fixture(scope="module")
def one_stage() -> FitData:
    """Five sizes times five amounts of tokens, of a Chinchilla surface."""
    n, d = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    log_loss = np.log(1.7 + 400 / n**0.34 + 410 / d**0.28) + 0.002 * np.random.default_rng(3).normal(size=25)
    nothing = np.zeros(25)
    return FitData([str(k) for k in range(25)], {"non_embedding": n}, d, nothing, np.full(25, np.nan), log_loss, 6 * n * d, np.arange(25), None)


@pytest.fixture(scope="module")
def chinchilla(one_stage: FitData) -> FittedLaw:
    return fit(one_stage, "chinchilla", resamples=30)


def drawn(panels: int = 1) -> tuple[Any, Any]:
    """Return axes to draw on, one or several, and a function that renders their page."""
    figure, axes = sheet(panels)
    return (axes[0] if panels == 1 else axes), figure.canvas.draw


def words(axis: Any) -> list[str]:
    """List the labels of the legend."""
    return [text.get_text() for text in axis.get_legend().get_texts()]


def ticks(axis: Any) -> list[str]:
    """List the labels of the horizontal axis that are inside it."""
    low, high = axis.get_xlim()
    return [label.get_text() for label in axis.get_xticklabels() if low <= label.get_position()[0] <= high]


@pytest.mark.parametrize(("low", "high", "labels"), [(1.5e4, 3e5, "20k 50k 100k 200k"), (1e6, 1e12, "1M 10M 100M 1B 10B 100B 1T")])
def test_counts_are_labelled_as_people_write_them(low: float, high: float, labels: str) -> None:
    axis, render = drawn()
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    log_counts(axis)
    render()
    assert ticks(axis) == labels.split()


def test_slices_show_every_run_of_a_slice(fitted: FittedLaw, synthetic: FitData) -> None:
    axes, render = drawn(2)
    size_slices(axes[0], fitted, synthetic)
    token_slices(axes[1], fitted, synthetic, params=1.1e5)
    render()
    assert len(words(axes[0])) == 5
    assert all(len(line.get_xdata()) == 5 for line in axes[0].lines if line.get_marker() != "None")
    assert axes[1].get_title().startswith("Repetition: 80k parameters")
    rows = (synthetic.params == 8e4) & (synthetic.tokens_pt == 3.5e5) & (synthetic.tokens_spec > 0)
    marks = np.concatenate([line.get_ydata() for line in axes[1].lines if line.get_marker() != "None"])
    np.testing.assert_allclose(np.sort(marks), np.sort(np.exp(synthetic.log_loss[rows])))
    assert "nats/token" in axes[1].get_ylabel() and axes[1].get_xlabel()


def test_a_slice_is_dashed_where_it_leaves_the_runs(fitted: FittedLaw, synthetic: FitData) -> None:
    axis, render = drawn()
    token_slices(axis, fitted, synthetic, params=1.1e5)
    render()
    dashed, solid = ([line for line in axis.lines if line.get_linestyle() == style and line.get_marker() == "None"] for style in ("--", "-"))
    passes = fitted.support.high["epochs_spec"]
    for (whole, inside), unique in zip(zip(dashed, solid, strict=True), np.unique(synthetic.unique_spec[synthetic.tokens_spec > 0]), strict=True):
        beyond = np.asarray(whole.get_xdata(), dtype=float) > 1.5 * passes * unique
        assert np.isfinite(whole.get_ydata()).all() and np.isnan(np.asarray(inside.get_ydata(), dtype=float)[beyond]).all()
    assert any(np.isfinite(line.get_ydata()).any() for line in solid) and any(np.isnan(line.get_ydata()).any() for line in solid)


@pytest.mark.parametrize("along", ALONG)
def test_residuals_are_measured_minus_law(fitted: FittedLaw, synthetic: FitData, along: str) -> None:
    axis, render = drawn()
    residuals(axis, fitted, synthetic, along)
    render()
    heights = np.concatenate([item.get_offsets()[:, 1] for item in axis.collections])
    forecast = fitted.forecast(synthetic.params_by, synthetic.tokens_pt, synthetic.tokens_spec, synthetic.unique_spec).loss
    expected = 100 * (np.exp(synthetic.log_loss) - forecast) / forecast
    np.testing.assert_allclose(np.sort(heights), np.sort(expected), atol=1e-9)
    assert axis.get_xlabel() == ALONG[along]
    # Where runs have none of it, they stand at a tick that says so.
    assert ("0" in ticks(axis)) == bool((getattr(synthetic, along) == 0).any())


def test_a_table_without_a_grid_has_no_empty_panel(fitted: FittedLaw, synthetic: FitData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted.save(tmp_path / "law.json", {})
    moved = np.exp(np.random.default_rng(0).uniform(0, 0.5, (3, synthetic.count)))
    n, pt, spec = (values * factor for values, factor in zip((synthetic.params, synthetic.tokens_pt, synthetic.tokens_spec), moved, strict=True))
    for data, slices in ((synthetic, True), (replace(synthetic, params_by={"non_embedding": n}, tokens_pt=pt, tokens_spec=spec), False)):
        pages: list[Any] = []
        monkeypatch.setattr(fit_page, "save", lambda path, draw, panels, width, pages=pages: (pages.extend(sheet(panels)[1]), draw(pages)))
        fit_page.slices_page(tmp_path / "law.json", data, tmp_path / "law.png")
        assert len(pages) == 3 and all(len(axis.lines) > 1 or axis.collections for axis in pages)
        assert slices == pages[1].get_title().startswith("Repetition") == pages[0].get_title().startswith("Loss by size")


def test_means_are_of_runs_that_lie_together() -> None:
    assert [len(group) for group in _groups(np.repeat([1.0, 1.01, 2.0, 8.0], 5))] == [10, 5, 5]
    values = np.random.default_rng(0).permutation(np.geomspace(1, 1000, 5000))
    groups = _groups(values)
    assert len(groups) == 10 and sum(map(len, groups)) == 5000 and all(np.ptp(np.log(values[group])) < np.log(2.0) for group in groups)


def test_residuals_show_the_sign(fitted: FittedLaw, synthetic: FitData) -> None:
    axis, _ = drawn()
    worse = replace(synthetic, log_loss=synthetic.log_loss + np.log(1.1))
    residuals(axis, fitted, worse, "params")
    assert min(item.get_offsets()[:, 1].min() for item in axis.collections) > 5


def test_one_run_can_be_drawn(fitted: FittedLaw, synthetic: FitData) -> None:
    for row in (0, 1):  # without and with specialist tokens, if in this order
        one = synthetic.rows(np.arange(synthetic.count) == row)
        axes, render = drawn(5)
        for axis, along in zip(axes, ALONG, strict=False):
            residuals(axis, fitted, one, along)
        forecasts(axes[4], fitted, one)
        render()


def test_tables_of_one_stage_can_be_drawn(chinchilla: FittedLaw, one_stage: FitData) -> None:
    axes, render = drawn(6)
    residuals(axes[0], chinchilla, one_stage, "params")
    residuals(axes[1], chinchilla, one_stage, "tokens_pt")
    forecasts(axes[2], chinchilla, one_stage)
    iso_flop(axes[3], iso_flops(chinchilla, [1e18, 1e19], 1e9), one_stage)
    start_agreement(axes[4], chinchilla)
    law_scores(axes[5], chinchilla.scores)
    render()
    assert "specialist" not in axes[3].get_title() + axes[3].get_ylabel()
    assert "no specialist tokens" not in words(axes[0])
    slices, render = drawn(2)
    size_slices(slices[0], chinchilla, replace(one_stage, tokens_pt=20 * one_stage.params * np.arange(1, 26)))
    token_slices(slices[1], chinchilla, one_stage)
    render()
    assert [axis.texts[0].get_text() for axis in slices] == ["no token counts that most sizes share", "no run of 10M parameters has specialist text"]


def test_unseen_runs_are_drawn(fitted: FittedLaw) -> None:
    axis, render = drawn()
    holdout(axis, fitted)
    render()
    assert f"{fitted.holdout['mean_absolute_percent']:.2f} %" in axis.get_title()
    assert len(axis.lines[-1].get_xdata()) == fitted.holdout["rows"]


def test_the_title_names_all_sizes_that_were_unseen(fitted: FittedLaw) -> None:
    axis, _ = drawn()
    holdout(axis, replace(fitted, holdout={**fitted.holdout, "params": 12.6e9, "params_least": 6.8e9}))
    assert axis.get_title().startswith("6.8B to 12.6B parameters, held out")


def test_scores_name_laws_that_were_tried_and_mark_the_chosen() -> None:
    held = {"largest params": 1.0, "most epochs": 2.0}
    row = {"params_kind": "non_embedding", "parameters": 9, "status": "converged", "rms_percent": 0.7}
    scores = [
        {**row, "law": "good", "chosen": True, "held": held, "mean": 1.5},
        {**row, "law": "poor", "chosen": False, "held": {**held, "most epochs": 8.0}, "mean": 4.5},
        {**row, "law": "untried", "chosen": False, "held": {}, "mean": None},
    ]
    axes, render = drawn(2)
    law_scores(axes[0], scores)
    law_scores(axes[1], scores[2:])
    render()
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == ["* good (non-emb., 9)", "poor (non-emb., 9)"]
    assert [text.get_text() for text in axes[0].texts] == ["1.00", "2.00", "1.50", "0.70", "1.00", "8.00", "4.50", "0.70"]
    assert [text.get_fontweight() for text in axes[0].texts] == ["bold"] * 4 + ["normal"] * 4
    assert "not shown: 1 not tried on the slices" in axes[0].get_title()
    assert "no slice" in axes[1].texts[0].get_text()


def test_agreement_is_written_beside_its_bar(fitted: FittedLaw) -> None:
    axis, render = drawn()
    start_agreement(axis, fitted)
    render()
    member = fitted.members[0]
    assert [text.get_text() for text in axis.texts] == [f"{member.starts_agree} of {member.starts}"]
    assert [patch.get_width() for patch in axis.patches] == [member.starts, member.starts_agree]


def test_profiles_show_both_intervals(fitted: FittedLaw, synthetic: FitData) -> None:
    member = fitted.members[0]
    found = profile(member.law, synthetic.points(member.reference), synthetic.log_loss, member.theta, ["α", "E"])
    axes, render = drawn(2)
    profiles(axes, member, found)
    render()
    for axis, one in zip(axes, found, strict=True):
        place = [parameter.name for parameter in member.law.parameters].index(one.name)
        assert axis.get_title().startswith(one.name)
        assert any(np.array_equal(line.get_xdata(), one.value) for line in axis.lines)
        assert any(np.array_equal(line.get_xdata(), member.interval(place)) for line in axis.lines)
        low, high = axis.get_xlim()
        assert low < member.theta[place] < high
    assert len(axes[0].figure.legends) == 1


def test_a_profile_without_ends_can_be_drawn(fitted: FittedLaw) -> None:
    name = fitted.members[0].law.parameters[0].name
    flat = Profile(name, np.array([0.9, 1.0, 1.1]), np.array([0.1, 0.0, 0.1]), 1e-3, 20.0, True, True)
    axes, render = drawn(2)
    profiles(axes[:1], fitted.members[0], [flat])
    render()
    assert axes[0].get_xlim()[1] < 10


def test_iso_flop_curves_mark_their_optimum(fitted: FittedLaw, synthetic: FitData) -> None:
    curves = iso_flops(fitted, BUDGETS, 2e5)
    axes, render = drawn(2)
    iso_flop(axes[0], curves, synthetic)
    iso_flop_shares(axes[1], curves)
    render()
    marks = [line for line in axes[0].lines if line.get_markeredgecolor() == "black"]
    assert [float(line.get_xdata()[0]) for line in marks] == [curve.params[curve.best] for curve in curves]
    assert [float(line.get_ydata()[0]) for line in marks] == [curve.loss.min() for curve in curves]
    assert [text.split(" FLOPs")[0] for text in words(axes[0])[:2]] == ["1e+12", "4e+12"]
    for curve in curves:
        crosses = [line for line in axes[0].lines if line.get_marker() == "x" and len(line.get_xdata())]
        assert crosses, curve.flops


def test_the_curve_of_sizes_marks_the_recommendation_and_what_was_asked_for(chinchilla: FittedLaw) -> None:
    for number, asked in enumerate(({"params": 1e8}, {"params_range": (5e7, 1e8)}, {"params_among": (5e7, 1e8, 2e8)}, {"general_tokens": 1e10})):
        request = Request(1e19, 1.0, **asked)
        answer = allocate(chinchilla, request)
        axis, render = drawn()
        size_curve(axis, answer, iso_flop_of(Problem.of(chinchilla, request)))
        render()
        marked = [line for line in axis.lines if line.get_marker() == "o"]
        assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in marked] == [(answer.plan.params_non_embedding, answer.plan.loss)]
        assert sum(line.get_linestyle() == "--" for line in axis.lines) == (1, 2, 3, 0)[number]
        assert "specialist" not in axis.get_title() + axis.get_ylabel() and format_count(answer.plan.params_non_embedding) in words(axis)[-1]


def over(axis: Any) -> str:
    """Return what stands in small letters over axes, on one line."""
    return " ".join(text.get_text() for text in axis.texts).replace("\n", " ")


def test_the_curve_of_splits_says_how_far_out_the_plan_is_and_what_limit_it_keeps() -> None:
    law, general = (FittedLaw.load(SWEEPS / "computing" / name) for name in ("law.json", "replay/law_general.json"))
    answer = allocate(law, Request(3e13, 2e5, max_general_rise=0.1), general=general)
    axis, render = drawn()
    split_curve(axis, answer)
    render()
    assert answer.general is not None
    assert over(axis).startswith(f"outside the runs: {outside(answer.extrapolation)} a rise of the general loss of at most 10 %: kept with a probability")
    assert f"{answer.general['extrapolation']:.3g}× outside the runs of its law" in over(axis)
    low, high = axis.get_ylim()
    assert low < answer.plan.loss_low < answer.plan.loss_high < high
    near, _ = drawn()
    split_curve(near, allocate(law, Request(3e12, 2e5)))
    assert not over(near)


def test_the_curve_of_splits_goes_through_a_small_share_and_stops_where_the_passes_do() -> None:
    """The line went straight from a share of 0 to 2.5 %, far above a plan of 0.1 %, and on to 100 % through splits that the passes do not allow."""
    law = FittedLaw.load(SWEEPS / "medicine" / "law.json")
    answer = allocate(law, Request(1e25, 5e9), allow_extrapolation=True)
    axis, render = drawn()
    split_curve(axis, answer)
    render()
    lines = [line for line in axis.lines if line.get_linestyle() == "-"]
    share, loss = lines[0].get_xdata(), lines[0].get_ydata()
    assert 0 < answer.plan.share_spec < 0.01 and axis.get_xscale() == "log"
    assert np.exp(np.interp(np.log(answer.plan.share_spec), np.log(share), np.log(loss))) == pytest.approx(answer.plan.loss, rel=0.02)
    most = answer.plan.unique_spec * law.support.high["epochs_spec"]
    assert len(lines) == 1 and share.max() < 0.1 and most < 1e12, "no line where text is too little"
    assert [list(line.get_xdata()) for line in axis.lines if line.get_marker() == "." and len(line.get_xdata()) == 1] == [[1.0]]
    near, _ = drawn()
    split_curve(near, allocate(law, Request(2e13, 2e5)))
    assert near.get_xscale() == "linear" and len(near.lines[0].get_xdata()) > 30


def test_far_out_is_no_forecast_in_any_figure(chinchilla: FittedLaw, fitted: FittedLaw) -> None:
    request = Request(1e26, 1.0)
    axis, _ = drawn()
    size_curve(axis, allocate(chinchilla, request, allow_extrapolation=True), iso_flop_of(Problem.of(chinchilla, request)))
    axes, _ = drawn(2)
    base = Base.parse("name=A,tokens=2T,params=7B")
    bases(axes, allocate_bases(fitted, Request(1e20, 1e9), [base], allow_extrapolation=True))
    three, _ = drawn(3)
    domains(three, allocate_domains(DomainsRequest(1e19, (Domain("a", fitted, 1e8), Domain("b", fitted, 1e9))), allow_extrapolation=True))
    for one in (axis, axes[0], three[2]):
        assert "NOT A FORECAST, outside the runs: " in over(one)


def test_an_optimum_at_the_end_is_none() -> None:
    rising = IsoFlop(
        1e12, 2e5, np.array([1e5, 2e5, 4e5]), np.array([3.0, 2.9, 2.8]), np.array([2.9, 2.8, 2.7]), np.array([3.1, 3.0, 2.9]),
        np.array([0.1, 0.2, 0.3]), np.array([1.0, 1.0, 1.0]), np.array([True, True, False]), (4e5, 4e5),
    )  # fmt: skip
    axes, render = drawn(2)
    iso_flop(axes[0], [rising])
    iso_flop_shares(axes[1], [rising])
    render()
    assert words(axes[0]) == ["1e+12 FLOPs: no optimum among the sizes"]
    assert not [line for axis in axes for line in axis.lines if line.get_markeredgecolor() == "black"]


def test_learning_rates_show_probes_that_ended_and_the_rule() -> None:
    losses = {1e-3: 4.4, 4e-3: 3.0, 1.6e-2: 9.0}
    probes = [{"params_non_embedding": 2e4, "learning_rate": rate, "loss": loss, "diverged": loss > 5} for rate, loss in losses.items()]
    rule = {"lr_coefficient": 4e-3, "lr_reference_params": 1e4, "lr_exponent": 0.5}
    axis, render = drawn()
    learning_rates(axis, {"probes": probes, "optima": [{"params_non_embedding": 2e4}], "rule": rule})
    render()
    basin, dotted = axis.lines
    assert list(basin.get_xdata()) == [1e-3, 4e-3]
    assert dotted.get_xdata()[0] == pytest.approx(4e-3 / 2**0.5)
    assert words(axis) == ["20k parameters"]
    assert len(ticks(axis)) >= 2


def rows_of(axis: Any) -> list[str]:
    """List the labels of the vertical axis, from the top."""
    return [label.get_text() for label in axis.get_yticklabels()]


@pytest.mark.slow
def test_many_domains_show_structures_budget_and_losses(fitted: FittedLaw) -> None:
    count = MOST_DOMAINS + 3
    many = tuple(Domain(f"d{number}", fitted, 1e5 * (1 + number % 3), max_loss=9.0 if number == 0 else None) for number in range(count))
    answer = allocate_domains(DomainsRequest(2e14, many), allow_extrapolation=True)
    axes, render = drawn(3)
    domains(axes, answer)
    render()
    best = answer.recommended
    assert rows_of(axes[0])[0] == "split training\n(recommended)" and "one mixed model" in rows_of(axes[0])
    assert words(axes[0]) == ["lower bound, no forecast"]
    bars = [bar.get_width() for bar in axes[1].patches]
    assert rows_of(axes[1])[0] == "trunk" and rows_of(axes[1])[-1] == "3 other domains" and len(bars) == MOST_DOMAINS + 2
    assert best.flops is not None and abs(sum(bars) - 100 * best.flops / 2e14) < 1e-6
    order = sorted(best.domains, key=lambda plan: -plan.flops)
    assert rows_of(axes[2]) == [plan.name for plan in order[:MOST_DOMAINS]] and "3 more not shown" in axes[2].get_title()
    marks = [float(np.asarray(line.get_xdata())[0]) for line in axes[2].lines if line.get_marker() == "o"]
    assert marks == pytest.approx([plan.loss for plan in order[:MOST_DOMAINS]])
    if any(plan.name == "d0" for plan in order[:MOST_DOMAINS]):
        assert words(axes[2]) == ["required"]


def test_bases_show_losses_before_and_after_and_how_far(fitted: FittedLaw) -> None:
    both = tuple(Base.parse(f"name={name},tokens=2M,params={size},vocab=1024,context=128") for name, size in (("$small^$", "100k"), ("large", "200k")))
    answer = allocate_bases(fitted, Request(9e11, 2e5), both, Method())
    axes, render = drawn(2)
    bases(axes, answer)
    render()
    assert [name.split("\n")[0] for name in rows_of(axes[0])] == [*(choice.base for choice in answer.choices), "a model of one's own"]
    assert words(axes[0]) == ["as it is", "specialised, or trained with the same budget"]
    assert [text.get_text() for text in axes[1].texts] == [f"{choice.plan.epochs_spec:.3g} epochs" for choice in answer.choices]
    low, high = axes[1].get_xlim()
    assert all(low < choice.plan.tokens_spec < high for choice in answer.choices)
