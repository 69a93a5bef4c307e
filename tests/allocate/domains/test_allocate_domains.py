"""The recommendation as a whole: required losses, intervals, refusals, warnings, and the file."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.domains import allocate as module
from planner.allocate.domains import refuse
from planner.allocate.domains.allocate import allocate_domains
from planner.allocate.domains.answer import DomainsAllocation
from planner.allocate.domains.forecast import outlook, required
from planner.allocate.domains.found import INDEPENDENT, MIXED, SPLIT, Found
from planner.allocate.domains.independent import independent
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.split import NO_GENERAL, split
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw

SWEEPS = Path(__file__).parents[3] / "sweeps"
BUDGET = 4e13


def domains(law: FittedLaw, *max_loss: float | None, unique: tuple[float, ...] = (2e5, 1e6, 5e5)) -> tuple[Domain, ...]:
    required = max_loss or (None,) * len(unique)
    return tuple(Domain(name, law, text, 1.0, most) for name, text, most in zip("abcdefgh", unique, required, strict=False))


def test_structures_are_compared_at_equal_flops(fitted: FittedLaw) -> None:
    answer = allocate_domains(DomainsRequest(BUDGET, domains(fitted)))
    by = {structure.name: structure for structure in answer.structures}
    assert list(by) == [SPLIT, INDEPENDENT, MIXED] and answer.best in (SPLIT, INDEPENDENT)
    for structure in (*answer.structures, *answer.arms):
        assert structure.loss is not None and structure.flops is not None
        assert structure.loss_low < structure.loss < structure.loss_high
        assert structure.loss == pytest.approx(np.mean([plan.loss for plan in structure.domains]), rel=1e-9)
        assert 0.5 * BUDGET < structure.flops <= BUDGET * (1 + 1e-9)
        paid = sum(plan.share_flops for plan in structure.domains) + (structure.share_general or 0.0)
        assert paid == pytest.approx(structure.flops / BUDGET, rel=1e-9)
        for plan in structure.domains:
            assert plan.loss_low < plan.loss < plan.loss_high and plan.extrapolation["flops"] >= 1
    assert answer.recommended.probability is None and answer.recommended.worse_percent == 0
    assert by[INDEPENDENT if answer.best == SPLIT else SPLIT].probability > 0.5
    assert "have not measured that" in by[MIXED].assumption and by[MIXED].probability is None and not by[SPLIT].assumption
    assert all(arm.worse_percent > 0 for arm in answer.arms)


def test_resamples_of_one_law_go_together_and_of_two_do_not(fitted: FittedLaw) -> None:
    other = replace(fitted, members=fitted.members)
    one = DomainsProblem.of(DomainsRequest(BUDGET, domains(fitted, unique=(1e6, 1e6))))
    two = DomainsProblem.of(DomainsRequest(BUDGET, (one.request.domains[0], replace(one.request.domains[1], law=other))))
    found = split(one)
    assert found is not None and len(two.groups) == 2
    together, apart = (outlook(problem, found).resamples for problem in (one, two))
    assert together.mean() == pytest.approx(apart.mean(), rel=1e-6)
    assert apart.std() == pytest.approx(together.std() / np.sqrt(2), rel=0.1)


def test_structures_without_what_every_run_has_say_so(fitted: FittedLaw, tmp_path: Path) -> None:
    law = replace(fitted, support=replace(fitted.support, zero={**fitted.support.zero, "tokens_pt": False}))
    answer = allocate_domains(DomainsRequest(BUDGET, domains(law)))
    bare = next(arm for arm in answer.arms if arm.name == NO_GENERAL)
    assert "a, b, c: every run of the table has general tokens: the effect of having none is not measured" in bare.note
    assert not answer.recommended.note
    answer.save(tmp_path / "domains.json", {})
    again = next(arm for arm in DomainsAllocation.load(tmp_path / "domains.json").arms if arm.name == NO_GENERAL)
    assert again.domains[0].extrapolation["tokens_pt"] == math.inf


@pytest.mark.usefixtures("plans_alone")
@pytest.mark.slow
def test_required_losses_are_kept_and_cost(fitted: FittedLaw) -> None:
    free = allocate_domains(DomainsRequest(BUDGET, domains(fitted)))
    loss = free.recommended.domains[0].loss
    bound = allocate_domains(DomainsRequest(BUDGET, domains(fitted, 0.985 * loss, None, None)))
    for structure in bound.structures:
        assert structure.loss is None or structure.domains[0].loss <= 0.985 * loss
    assert bound.recommended.loss > free.recommended.loss
    loose = allocate_domains(DomainsRequest(BUDGET, domains(fitted, 1.2 * loss, 9.0, None)))
    assert loose.recommended.loss == pytest.approx(free.recommended.loss, rel=1e-4)


def knowing(monkeypatch: pytest.MonkeyPatch, budget: float) -> None:
    """Let refusals know the budget that would do: the search for it takes nearly all of their time."""
    monkeypatch.setattr(refuse, "_least", lambda *_: budget)


@pytest.mark.usefixtures("plans_alone")
@pytest.mark.slow
def test_a_loss_out_of_reach_is_refused_with_its_domain(fitted: FittedLaw, monkeypatch: pytest.MonkeyPatch) -> None:
    free = allocate_domains(DomainsRequest(BUDGET, domains(fitted)))
    own = [plan.loss for plan in free.recommended.domains]
    with pytest.raises(DataError, match=r"domain 'b' cannot reach its max_loss of 0\.5 .*no budget up to 4e\+16 FLOPs would suffice") as refusal:
        allocate_domains(DomainsRequest(BUDGET, domains(fitted, None, 0.5, 9.0)))
    assert refusal.value.remedy == "raise its max_loss, or give more of its text", "more budget is no remedy there"
    with pytest.raises(DataError, match="domain .b. cannot reach .*even if it gets them all.*; by the laws about .* FLOPs for all domains") as refusal:
        allocate_domains(DomainsRequest(BUDGET, domains(fitted, None, 0.85 * own[1], 9.0)))
    needed = float(refusal.value.message.split("about ")[1].split(" FLOPs")[0])
    assert BUDGET < needed < 1000 * BUDGET
    assert allocate_domains(DomainsRequest(1.05 * needed, domains(fitted, None, 0.85 * own[1], 9.0)), allow_extrapolation=True)
    knowing(monkeypatch, needed)
    with pytest.raises(DataError, match="cannot"):
        allocate_domains(DomainsRequest(0.9 * needed, domains(fitted, None, 0.85 * own[1], 9.0)), allow_extrapolation=True)


@pytest.mark.usefixtures("plans_alone")
@pytest.mark.slow
def test_losses_that_exclude_each_other_are_refused(fitted: FittedLaw) -> None:
    alike = domains(fitted, unique=(1e6,) * 8)
    first, second = alike[:2]
    loss = allocate_domains(DomainsRequest(BUDGET, (first, replace(second, weight=0.0)))).recommended.domains[0].loss
    told = "cannot all be reached .* beside the others, but its max_loss is .*; by the laws about .* FLOPs for all domains would suffice"
    with pytest.raises(DataError, match=told):
        allocate_domains(DomainsRequest(BUDGET, tuple(replace(domain, max_loss=loss * 1.01) for domain in alike)))


def test_the_file_holds_the_answer(fitted: FittedLaw, tmp_path: Path) -> None:
    answer = allocate_domains(DomainsRequest(BUDGET, domains(fitted), params_range=(2e4, 2e5)))
    answer.save(tmp_path / "a.json", {"domains": "0"})
    again = DomainsAllocation.load(tmp_path / "a.json")
    assert again.created and again.recommended.domains == answer.recommended.domains
    assert again.warnings == answer.warnings and again.structures == answer.structures


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokens_spec", "abc", "tokens_spec = 'abc' of the domain"),
        ("flops_path", math.nan, "flops_path = nan"),
        ("tokens_pt", -1, "tokens_pt = -1"),
        ("shape", {"layers": 2}, "missing"),
        ("sources", {}, "no source for the domain"),
        ("best", "none", "best = 'none'"),
        ("structures", [], "of which there is no plan"),
    ],
)
def test_wrong_values_in_the_file_are_named(fitted: FittedLaw, tmp_path: Path, key: str, value: object, message: str) -> None:
    path = tmp_path / "a.json"
    allocate_domains(DomainsRequest(BUDGET, domains(fitted), params_range=(2e4, 2e5))).save(path, {})
    body = json.loads(path.read_text())
    (body if key in body else body["structures"][0]["domains"][0])[key] = value
    path.write_text(json.dumps(body))
    with pytest.raises(InputError, match=f"a.json holds a value of the wrong kind .*{message}"):
        DomainsAllocation.load(path)


@pytest.mark.usefixtures("plans_alone")
def test_far_budgets_are_refused_or_warned_of(fitted: FittedLaw) -> None:
    largest = fitted.support.high["flops"]
    with pytest.raises(DataError, match="the best plan of domain '.' lies too far beyond the runs"):
        allocate_domains(DomainsRequest(1e4 * largest, domains(fitted)))
    far = allocate_domains(DomainsRequest(1e4 * largest, domains(fitted)), allow_extrapolation=True)
    assert any(text.startswith("EXTRAPOLATION: domain '") and "the farthest of 3 of 3" in text for text in far.warnings)
    with pytest.raises(DataError, match="too few"):
        allocate_domains(DomainsRequest(1e8, domains(fitted)))


def test_weighted_losses_far_out_stay_above_zero(fitted: FittedLaw, tmp_path: Path) -> None:
    """A sum whose deviation passes half of it would reach below a loss of zero, and no later stage would read that answer."""
    law = replace(fitted, drift=0.05)
    far = allocate_domains(DomainsRequest(1e12 * fitted.support.high["flops"], domains(law)), allow_extrapolation=True)
    for structure in (*far.structures, *far.arms):
        if structure.loss is not None:
            assert 0 < structure.loss_low < structure.loss < structure.loss_high, structure.name
            # The domains err alike so far out, and their mean as much as they do.
            wide = [np.log(plan.loss_high / plan.loss_low) for plan in structure.domains]
            assert 0.8 * min(wide) < np.log(structure.loss_high / structure.loss_low) < 1.2 * max(wide), structure.name
    path = tmp_path / "a.json"
    far.save(path, {})
    assert DomainsAllocation.load(path).structures[0].loss_low == far.structures[0].loss_low


def test_the_domains_whose_passes_bind_are_named(fitted: FittedLaw) -> None:
    answer = allocate_domains(DomainsRequest(BUDGET, domains(fitted, unique=(2e5, 3e7, 3e5)), max_epochs=2.0))
    assert "the limit on passes binds for 1 of 3 domains (c): more text or passes might lower their loss" in answer.warnings


@pytest.mark.usefixtures("plans_alone")
def test_laws_of_other_recipes_are_told(fitted: FittedLaw) -> None:
    source = {**fitted.source, "vocab_size": 2048, "recipe": {**fitted.source["recipe"], "seq_len": 256}, "corpus": "other"}
    first, *rest = domains(fitted)
    answer = allocate_domains(DomainsRequest(BUDGET, (first, *(replace(domain, law=replace(fitted, source=source)) for domain in rest))))
    told = " ".join(answer.warnings)
    assert "lengths of a sequence, 128 and 256" in told and "vocabularies, 1024 and 2048" in told and "different corpora" in told
    assert "families" not in told
    assert not any("different" in text for text in allocate_domains(DomainsRequest(BUDGET, domains(fitted))).warnings)


def test_bad_domains_are_refused(fitted: FittedLaw) -> None:
    with pytest.raises(InputError, match="weight of -1"):
        Domain("a", fitted, 1e5, -1.0)
    with pytest.raises(InputError, match="max_loss of 0"):
        Domain("a", fitted, 1e5, 1.0, 0.0)
    with pytest.raises(InputError, match="every domain has weight 0"):
        DomainsRequest(BUDGET, tuple(replace(domain, weight=0.0) for domain in domains(fitted)))


@pytest.mark.slow
def test_the_budget_that_a_refusal_names_does_where_a_coarse_search_misses_by_a_hair() -> None:
    """A domain that counts for nothing and must reach a loss gets just what that takes; the coarse search ended 3e-4 above it at any budget."""
    law = FittedLaw.load(SWEEPS / "medicine" / "law.json")
    asked = DomainsRequest(6e12, (Domain("a", law, 2e5, max_loss=2.7), Domain("b", law, 2e9, weight=0.0, max_loss=2.3)))
    with pytest.raises(DataError, match="about .* FLOPs for all domains would suffice") as refusal:
        allocate_domains(asked)
    told = float(refusal.value.message.split("about ")[1].split(" FLOPs")[0])
    assert 9e12 < told < 9.6e12
    enough = DomainsProblem.of(replace(asked, flops=1.02 * told))
    found = split(enough)
    assert found is not None and (enough.losses(found) <= enough.max_loss).all()


@pytest.mark.usefixtures("plans_alone")
@pytest.mark.slow
def test_the_budget_that_a_refusal_names_does_as_it_is_told() -> None:
    """Rounded to the nearest of two digits, what was named could be what had been refused."""
    medicine, computing = (FittedLaw.load(SWEEPS / "three" / name / "law.json") for name in ("medicine", "computing"))
    pair = Domain("m", medicine, 2e5, max_loss=2.45), Domain("c", computing, 2e5, max_loss=3.25)
    with pytest.raises(DataError, match="about .* FLOPs for all domains would suffice") as refusal:
        allocate_domains(DomainsRequest(2.05e13, pair))
    told = float(refusal.value.message.split("about ")[1].split(" FLOPs")[0])
    assert 2.05e13 < told < 2.13e13
    assert (np.array([plan.loss for plan in allocate_domains(DomainsRequest(told, pair)).recommended.domains]) <= (2.45, 3.25)).all()


@pytest.mark.usefixtures("plans_alone")
@pytest.mark.slow
def test_a_refusal_names_the_least_budget_after_few_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of its time goes to structures that miss, each of them searched with every margin; the budget was told up to 8 % too high."""
    searches: list[object] = []

    def counted(search: Callable[..., Found | None]) -> Callable[..., Found | None]:
        return lambda *given, **named: (searches.append(given), search(*given, **named))[1]

    for name, search in (("split", split), ("independent", independent)):
        monkeypatch.setattr(module, name, counted(search))
    medicine, nature = (FittedLaw.load(SWEEPS / name / "law.json") for name in ("three/medicine", "nature"))
    asked = DomainsRequest(4.28136e12, (
        Domain("a", medicine, 102_668, 1.66819, 2.6687), Domain("b", nature, 595_404, 0.300891), Domain("c", medicine, 1_250_710, 0.564258, 1.86577),
    ))  # fmt: skip
    with pytest.raises(DataError, match="about .* FLOPs for all domains would suffice") as refusal:
        allocate_domains(asked)
    told, count = float(refusal.value.message.split("about ")[1].split(" FLOPs")[0]), len(searches)
    assert allocate_domains(replace(asked, flops=told), allow_extrapolation=True).recommended.loss
    knowing(monkeypatch, told)
    with pytest.raises(DataError, match="FLOPs for all domains would suffice"):
        allocate_domains(replace(asked, flops=0.97 * told), allow_extrapolation=True)
    assert count <= 15


def test_a_range_of_sizes_that_fine_steps_pass_over_has_a_plan() -> None:
    law = FittedLaw.load(SWEEPS / "medicine" / "law.json")
    problem = DomainsProblem.of(DomainsRequest(3e13, (Domain("a", law, 2e5), Domain("b", law, 4e5)), params_range=(5.8e5, 5.82e5)))
    assert all(5.8e5 <= size.params_non_embedding <= 5.82e5 for size in problem.ladder) and split(problem) is not None


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_sizes_are_all_of_a_range_and_none_beside_it(fitted: FittedLaw) -> None:
    """A size asked for at an end may be realised beyond it, and a shape inside be the nearest to sizes outside alone."""
    for low, high in ((1.5e5, 2.2e5), (2.0e5, 2.178e5)):
        problem = DomainsProblem.of(DomainsRequest(BUDGET, domains(fitted), params_range=(low, high)))
        found = [size.params_non_embedding for size in problem.ladder]
        assert low <= min(found) and max(found) <= high and 217_120 in found


@pytest.mark.usefixtures("plans_alone")
@pytest.mark.slow
def test_how_surely_a_required_loss_is_reached_is_said(fitted: FittedLaw, tmp_path: Path) -> None:
    free = allocate_domains(DomainsRequest(BUDGET, domains(fitted))).recommended.domains[0]
    assert free.probability is None and free.surer_max_loss is None
    asked = 0.995 * free.loss
    tight = allocate_domains(DomainsRequest(BUDGET, domains(fitted, asked, None, None)))
    plan = tight.recommended.domains[0]
    assert plan.probability is not None and 0.5 <= plan.probability < 0.7, "a loss that binds is reached by the mean alone"
    assert plan.surer_max_loss == pytest.approx(asked * plan.loss / plan.loss_high)
    (said,) = (text for text in tight.warnings if text.startswith("the mean forecast reaches every required loss"))
    assert f"'a' {asked:g} in {plan.probability:.0%} of runs" in said and f"max_loss = {plan.surer_max_loss:.4g} for 'a'" in said
    loose = allocate_domains(DomainsRequest(BUDGET, domains(fitted, 1.0001 * free.loss_high, None, None)))
    easy = loose.recommended.domains[0]
    assert easy.probability == pytest.approx(0.95, abs=0.01) and easy.surer_max_loss is None
    assert not any(text.startswith("the mean forecast reaches every required loss") for text in loose.warnings)
    tight.save(tmp_path / "a.json", {})
    assert DomainsAllocation.load(tmp_path / "a.json").recommended.domains[0] == plan
    body = json.loads((tmp_path / "a.json").read_text())
    for item in (domain for structure in (*body["structures"], *body["arms"]) for domain in structure["domains"]):
        del item["probability"], item["surer_max_loss"]  # as older versions wrote it
    (tmp_path / "a.json").write_text(json.dumps(body))
    assert DomainsAllocation.load(tmp_path / "a.json").recommended.domains[0].probability is None


def test_the_probability_of_a_required_loss_by_hand() -> None:
    assert required(None, 3.0, 2.9, 3.1) == (None, None)
    assert required(3.0, 3.0, 2.9, 3.1) == (0.5, pytest.approx(3.0 * 3.0 / 3.1))
    assert required(3.1, 3.0, 2.9, 3.1)[0] == pytest.approx(0.95, abs=1e-3), "the upper end of a 90 % interval is passed by one run in twenty"
    assert required(2.9, 3.0, 2.9, 3.1)[0] == pytest.approx(0.05, abs=1e-3)
    assert required(3.2, 3.0, 2.9, 3.1) == (pytest.approx(0.9994, abs=1e-4), None)  # 3.24 deviations
    assert required(3.0, 3.0, 2.9, 3.1, held=True) == (0.5, None), "an end that stays where it is makes no lower requirement surer"
