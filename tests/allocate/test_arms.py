"""Arms at their own best sizes and with their true reasons, against brute force; alternatives that are as good as they are shown."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.allocation import Allocation, Arm, behind
from planner.allocate.extrapolation import outside
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.fit.fitted import FittedLaw
from planner.fit.member import Member
from planner.fit.support import Support
from planner.flops import flops_per_token
from planner.ladder import shapes_at
from planner.laws import LAWS, Reference
from planner.recipe import Recipe
from tests.allocate.problems import recorded

SWEEPS = Path(__file__).parents[2] / "sweeps"
THETA = np.array([1.21, 0.966, 3.525, 0.33, 0.282, 0.223, 0.121, 0.0031, 5.96])
"""E, A, B, α, β, γ, d0, s0 and R of a multiplicative law, from a table of larger models."""


@pytest.fixture(scope="module")
def table() -> FittedLaw:
    """A law from a table without a recipe, so that sizes may be anything."""
    law = LAWS["multiplicative-saturating"]
    resamples = THETA * np.exp(0.01 * np.random.default_rng(0).normal(size=(40, len(THETA))))
    low = {"params": 5e6, "tokens_pt": 3e8, "tokens_spec": 1e7, "unique_spec": 1e7, "epochs_spec": 0.5, "tokens_per_param": 2.0, "flops": 3e14}
    high = {"params": 5e8, "tokens_pt": 1e10, "tokens_spec": 8e8, "unique_spec": 1e8, "epochs_spec": 8.0, "tokens_per_param": 2160.0, "flops": 1.3e19}
    zero = dict.fromkeys([*low, "flops_6nd"], False)
    support = Support({**low, "flops_6nd": 3e14}, {**high, "flops_6nd": 1.3e19}, zero)
    member = Member(law, "non_embedding", Reference(5e7, 1e9), THETA, resamples, "converged", 1, 1, 1.0, (), (), 0.0)
    return FittedLaw((member,), 0.005, 0.01, support, 1.0)


def arm(law: FittedLaw, request: Request, name: str) -> Arm:
    return next(arm for arm in allocate(law, request).arms if arm.name == name)


@pytest.mark.parametrize(("flops", "unique"), [(1e19, 3.4e7), (1e19, 2.6e7), (3e19, 5e7)])
def test_an_arm_is_at_its_best_size_where_passes_bind(table: FittedLaw, flops: float, unique: float) -> None:
    found = arm(table, Request(flops, unique), "90/10").plan
    assert found is not None
    least = flops / 6 / (8 * unique / 0.1)  # the size at which a tenth of the tokens are eight passes
    sizes = least * np.geomspace(1, 3, 2000)
    tokens = flops / 6 / sizes
    each = table.log_loss_resamples(table.points({"non_embedding": sizes}, 0.9 * tokens, 0.1 * tokens, np.full(2000, unique))).mean(0)
    assert np.log(found.loss) == pytest.approx(each.min(), abs=2e-6)
    assert found.params_non_embedding == pytest.approx(sizes[each.argmin()], rel=0.01) and found.epochs_spec <= 8 * (1 + 1e-9)


def test_the_curve_over_shares_is_smooth_where_passes_bind(table: FittedLaw) -> None:
    """Its sizes are those of the recommendation, none of which is the best of a share whose passes bind: it would go up and down."""
    answer = allocate(table, Request(1e18, 2e7))
    shares, losses = (np.array(answer.curve[name])[1:-1] for name in ("share", "loss"))
    turns = np.flatnonzero(np.diff(np.sign(np.diff(np.log(losses)))))
    assert len(turns) <= 1, list(zip(shares, losses, strict=True))


def test_an_arm_is_at_its_best_size_where_the_text_binds(table: FittedLaw) -> None:
    """General text that is short bounds the size well below what the budget pays for."""
    general, share, flops, unique = 1e8, 0.1, 1e19, 2e8
    found = arm(table, Request(flops, unique, general_tokens=general), "90/10").plan
    most = general / (1 - share) / 2.0
    sizes = np.geomspace(most / 30, most, 4001)
    tokens = np.minimum(flops / (6 * sizes), general / (1 - share))
    points = table.points({"non_embedding": sizes}, (1 - share) * tokens, share * tokens, np.full_like(sizes, unique))
    assert found is not None and np.log(found.loss) - table.log_loss_resamples(points).mean(0).min() < 1e-9


@pytest.mark.parametrize(("name", "share", "unique"), [("90/10", 0.1, 1e5), ("90/10", 0.1, 4e4), ("50/50", 0.5, 2.5e5), ("no specialisation", 0.0, 1e5)])
def test_an_arm_is_the_best_of_all_shapes(fitted: FittedLaw, name: str, share: float, unique: float) -> None:
    found, recipe = arm(fitted, Request(2e13, unique, max_epochs=7.0), name).plan, Recipe()
    shapes = shapes_at(np.geomspace(3e4, 2e6, 20000), family=recipe.family, vocab=1024)
    tokens = np.array([2e13 / flops_per_token(shape, recipe.seq_len) for shape in shapes])
    sizes = np.array([float(shape.params_non_embedding) for shape in shapes])
    least = 204_800 if share else 0  # a stage of 200 steps
    may = (least <= share * tokens) & (share * tokens <= 7 * unique) & (tokens >= 2 * sizes)
    points = fitted.points({"non_embedding": sizes[may]}, (1 - share) * tokens[may], share * tokens[may], np.full(may.sum(), unique))
    best = float(fitted.log_loss_resamples(points).mean(0).min())
    assert found is not None and np.log(found.loss) == pytest.approx(best, abs=2e-5)


def test_sizes_that_were_asked_for_are_kept(table: FittedLaw) -> None:
    found = arm(table, Request(1e19, 3.4e7, params_among=(7e8, 9e8)), "90/10").plan
    assert found is not None and found.params_non_embedding in (7e8, 9e8)


def test_an_arm_without_what_every_run_has_says_so(fitted: FittedLaw, tmp_path: Path) -> None:
    zero = {**fitted.support.zero, "tokens_pt": False, "tokens_spec": False}
    law, request = replace(fitted, support=replace(fitted.support, zero=zero)), Request(3e12, 2e5)
    for name, tokens in (("specialist only", "general"), ("no specialisation", "specialist")):
        said = f"every run of the table has {tokens} tokens: the effect of having none"
        found, before = (arm(one, request, name) for one in (law, fitted))
        assert found.note.startswith(said) and not before.note
        assert found.plan is not None and before.plan is not None and found.plan.loss == before.plan.loss
        assert before.plan.loss_high / before.plan.loss_low < found.plan.loss_high / found.plan.loss_low < np.inf
    assert not arm(law, request, "50/50").note
    answer = allocate(law, replace(request, general_tokens=1e3))  # too few for a stage: the plan itself has none
    assert answer.plan.tokens_pt == 0 and answer.extrapolation["tokens_pt"] == np.inf and not answer.settled
    assert any(text.startswith("every run of the table has general tokens") for text in answer.warnings)
    assert "no general tokens, which every run has" in outside(answer.extrapolation)
    answer.save(tmp_path / "allocation.json", {})
    assert Allocation.load(tmp_path / "allocation.json").extrapolation == answer.extrapolation


def test_specialist_text_alone_trains_no_size_that_is_too_large_for_it(fitted: FittedLaw) -> None:
    request = Request(2e15, 5e4, max_epochs=8.0)
    found = arm(fitted, request, "specialist only").plan
    shapes = shapes_at(np.geomspace(1e4, 2e5, 5000), family=Recipe().family, vocab=1024)
    sizes = np.array([float(shape.params_non_embedding) for shape in shapes])
    sizes = sizes[sizes <= 2e5]  # eight passes are two tokens for each parameter
    points = fitted.points({"non_embedding": sizes}, 0 * sizes, 4e5 + 0 * sizes, 5e4 + 0 * sizes)
    assert found is not None and found.tokens_spec >= 2 * found.params_non_embedding * (1 - 0.01)
    assert np.log(found.loss) == pytest.approx(float(fitted.log_loss_resamples(points).mean(0).min()), abs=2e-4)
    note = arm(fitted, replace(request, params=1e6), "specialist only").note
    assert note.startswith("8 epochs, 400k tokens, would be fewer than 2 per parameter; ")
    enough = float(note.split("; ")[1].split(" would suffice")[0])
    assert arm(fitted, replace(request, params=1e6, max_epochs=enough), "specialist only").plan is not None


@pytest.mark.parametrize(("flops", "params_among"), [(2e13, ()), (4.49e13, ()), (2e13, (3e5, 8e5))])
def test_specialist_text_alone_is_passed_over_no_more_often_than_helps(flops: float, params_among: tuple[float, ...]) -> None:
    law, request = FittedLaw.load(SWEEPS / "medicine" / "law.json"), Request(flops, 2e5, params_among=params_among)
    found = arm(law, request, "specialist only").plan
    problem = Problem.of(law, request)
    sizes = problem.sizes() if params_among else problem.every(2e5, 2e6)
    some = tuple(size for size in sizes if problem.trainable(size, problem.min_tokens_per_param))
    points = problem.points(problem.split(some, 1.0, alone=tuple(2e5 * np.linspace(5, 15, 41))))
    assert found is not None and np.log(found.loss) < float(law.log_loss_resamples(points).mean(0).min()) + 1e-4
    assert found.epochs_spec < 14, "budget and passes allow 15"


def test_a_recommendation_of_specialist_text_alone_is_that_arm() -> None:
    answer = allocate(FittedLaw.load(SWEEPS / "medicine" / "law.json"), Request(2e13, 2e5, general_tokens=1e5))
    alone = next(arm for arm in answer.arms if arm.name == "specialist only")
    assert answer.plan.tokens_pt == 0 and alone.worse_percent == pytest.approx(0, abs=0.01)
    assert answer.curve["loss"][-1] == pytest.approx(answer.plan.loss, rel=1e-3)


def test_a_stage_that_its_passes_make_too_short_says_how_many_would_do(fitted: FittedLaw) -> None:
    request = Request(2e13, 5e4, general_tokens=3e5, max_epochs=2.0)
    note = arm(fitted, request, "specialist only").note
    assert note.startswith("2 epochs, 100k tokens, would be a specialist stage too short to train; ")
    enough = float(note.split("; ")[1].split(" would suffice")[0])
    assert arm(fitted, replace(request, max_epochs=enough), "specialist only").plan is not None
    assert arm(fitted, replace(request, max_epochs=enough - 0.1), "specialist only").plan is None
    mixed = arm(fitted, request, "50/50").note
    assert mixed.startswith("would take ")  # a share of a budget that is spent whole does take more


@pytest.mark.parametrize(("sweep", "flops", "unique"), [("nature", 1e15, 4e5), ("nature", 1e12, 4e5)])
def test_alternatives_are_within_the_tolerance_as_they_are_shown(sweep: str, flops: float, unique: float) -> None:
    answer = allocate(recorded(sweep), Request(flops, unique))
    assert len(answer.alternatives) == 2
    assert all(other.worse_percent is not None and other.worse_percent <= 0.5 for other in answer.alternatives)


@pytest.mark.parametrize(("flops", "unique"), [(3.28e11, 1.68e6), (1.5e11, 1e6), (6e11, 3e6)])
def test_no_arm_is_better_by_rounding_alone(flops: float, unique: float) -> None:
    """Where steps are few, the plan that is recommended in whole ones may lose as much by that as an arm, which is not rounded, seems to gain."""
    answer = allocate(FittedLaw.load(SWEEPS / "three" / "nature" / "law.json"), Request(flops, unique), allow_extrapolation=True)
    found = [one.worse_percent for one in (*answer.arms, *answer.alternatives) if one.worse_percent is not None]
    assert found and min(found) > -1e-4  # of what a search is exact to


def test_whole_steps_are_taken_off_what_is_better_and_added_to_nothing() -> None:
    mine = np.array([1.0, 1.1])
    assert behind(mine - 0.001, mine, 0.002)[0] == 0 and behind(mine - 0.001, mine)[0] < 0
    assert behind(mine - 0.003, mine, 0.002)[0] == pytest.approx(-0.1, abs=1e-3)
    assert behind(mine + 0.001, mine, 0.002) == behind(mine + 0.001, mine)
