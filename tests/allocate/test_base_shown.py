"""What the answer for bases shows is of all resamples: shares, differences and ranges are those that the losses beside them imply."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.base import Base
from planner.allocate.base_answer import BaseAllocation
from planner.allocate.base_stage import stage_of
from planner.allocate.bases import allocate_bases
from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.fit.fitted import FittedLaw
from planner.fit.level import interval_of
from planner.method import Method

ROOT = Path(__file__).parents[2]
MEDICINE = FittedLaw.load(ROOT / "sweeps" / "medicine" / "law.json")
COMPUTING = FittedLaw.load(ROOT / "sweeps" / "computing" / "law.json")
GENERAL = FittedLaw.load(ROOT / "sweeps" / "computing" / "replay" / "law_general.json")


def base(name: str, params: float, tokens: float) -> Base:
    return Base.parse(f"name={name},params={params:.0f},tokens={tokens:.0f},context=128,vocab=1024")


def resampled(law: FittedLaw, one: Base, spec: float, unique: float) -> np.ndarray:
    size = {"non_embedding": [float(one.shape.params_non_embedding)], "total": [float(one.params_total(law.source["vocab_size"]))]}
    return law.log_loss_resamples(law.points(size, [one.tokens], [spec], [unique]))[:, 0]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_shown_is_of_all_resamples(seed: int) -> None:
    random = np.random.default_rng(seed)
    bases = [base(name, *np.exp(random.uniform(np.log((4e4, 1e6)), np.log((3e5, 1e7))))) for name in "ABC"]
    unique, tolerance = float(np.exp(random.uniform(np.log(5e4), np.log(1e6)))), float(random.choice([0.001, 0.005, 0.03]))
    request = Request(float(np.exp(random.uniform(np.log(5e11), np.log(2e13)))), unique, tolerance=tolerance)
    answer = allocate_bases(MEDICINE, request, bases, allow_extrapolation=True)
    least = answer.choices[0].plan.loss
    every = {one.name: one for one in bases}
    ends = np.array([resampled(MEDICINE, every[choice.base], choice.plan.tokens_spec, unique) for choice in answer.choices])
    wins = np.bincount(ends.argmin(0), minlength=3) / ends.shape[1]
    assert [choice.probability for choice in answer.choices] == pytest.approx(list(wins), abs=1e-9)
    for choice in answer.choices:
        assert choice.higher_percent == pytest.approx(100 * (choice.plan.loss / least - 1), abs=1e-6)
        assert choice.cheapest is not None and choice.tokens_interval is not None
        assert choice.cheapest.loss <= choice.plan.loss * (1 + tolerance) * (1 + 1e-9)
    scratch = answer.scratch
    assert scratch.plan is not None and scratch.worse_percent is not None
    assert scratch.worse_percent == pytest.approx(100 * (scratch.plan.loss / least - 1), abs=1e-6)


def test_the_interval_of_the_amount_is_that_of_each_refit_s_own_best(fitted: FittedLaw) -> None:
    member = fitted.members[0]
    wide = member.theta * (member.resamples / member.theta) ** 4  # so that resamples differ in what is best
    law = replace(fitted, members=(replace(member, resamples=np.clip(wide, 1e-6, 30)),))
    one = base("A", 1e5, 1e6)
    choice = allocate_bases(law, Request(2e13, 2e5, max_epochs=30), [one]).choices[0]
    most = min(2e13 / Method().flops_per_token(one.shape, 128), 30 * 2e5)
    spec = np.append(np.geomspace(most / 300, most, 3000), 0.0)
    size = {"non_embedding": np.full(len(spec), float(one.shape.params_non_embedding)), "total": np.full(len(spec), 1.0)}
    own = spec[law.log_loss_resamples(law.points(size, np.full(len(spec), 1e6), spec, np.full(len(spec), 2e5)), MOST_RESAMPLES).argmin(1)]
    assert choice.tokens_interval is not None and choice.epochs_interval is not None
    assert choice.tokens_interval == pytest.approx(interval_of(own), rel=0.04)  # amounts are tried in steps of 4 %
    assert choice.tokens_interval[0] < 0.8 * choice.tokens_interval[1]
    assert choice.epochs_interval == pytest.approx(tuple(end / 2e5 for end in choice.tokens_interval))


def settled(answer: BaseAllocation, **changes: object) -> bool:
    first = replace(answer.choices[0], **changes)
    return replace(answer, choices=(first, *answer.choices[1:])).settled


def test_the_runs_are_enough_where_nothing_is_given_away_inside_them() -> None:
    answer = allocate_bases(MEDICINE, Request(4e12, 3e5), [base("A", 1.5e5, 1e6), base("B", 4e4, 1e6)])
    inside = {axis: 1.0 for axis in answer.choices[0].extrapolation}
    assert settled(answer, extrapolation=inside, regret_90_percent=0.4) and not settled(answer, extrapolation=inside, regret_90_percent=0.6)
    assert not settled(answer, extrapolation={**inside, "flops": 3.0}, regret_90_percent=0.0)
    assert not settled(answer, extrapolation=inside, regret_90_percent=None)
    lora = allocate_bases(MEDICINE, Request(4e12, 3e5), [base("A", 1.5e5, 1e6)], Method("lora"))
    assert not settled(lora, extrapolation=inside, regret_90_percent=0.0)


@pytest.mark.parametrize(("flops", "inference"), [(1e12, 0.0), (2e12, 0.0), (2e12, 5e5)])
def test_the_compute_that_text_is_worth_ends_as_low_as_twice_the_text(flops: float, inference: float) -> None:
    one, request = base("A", 3e5, 2e6), Request(flops, 3e5, max_epochs=30, inference_tokens=inference)
    said = allocate_bases(MEDICINE, request, [one], allow_extrapolation=True).exchange
    found = re.search(r"another 300k distinct specialist tokens are worth about (\S+) FLOPs to A here: (\S+) times .*interval (\S+) to (\S+) times", said)
    assert found is not None, said
    worth, factor, low, high = (float(part) for part in found.groups())
    assert worth == pytest.approx(flops * (factor - 1), rel=0.06, abs=0.006 * flops) and low <= factor <= high
    twice = stage_of(Problem.of(MEDICINE, replace(request, unique_spec=6e5)), one, Method()).end.mean()
    for nearby, above in ((0.98, True), (1.02, False)):
        end = stage_of(Problem.of(MEDICINE, request.times(nearby * factor)), one, Method()).end.mean()
        assert (end > twice) == above


def test_text_that_no_compute_makes_up_for_or_that_buys_nothing_is_said_so() -> None:
    one = base("A", 3e5, 2e6)
    said = {epochs: allocate_bases(MEDICINE, Request(1e13, 1e5, max_epochs=epochs), [one], allow_extrapolation=True).exchange for epochs in (2, 400)}
    assert said[2].endswith(" for A here: at most 2 passes over the present text are allowed") and "no amount of compute replaces" in said[2]
    assert said[400].endswith(" for A here: more passes over the present text would raise the loss")
    spare = allocate_bases(MEDICINE, Request(1e11, 1e8), [one], allow_extrapolation=True).exchange
    assert spare.startswith("another 100M distinct specialist tokens would gain A nothing here; no gain can be given for one more epoch")


def test_the_most_replay_that_runs_had_is_named_where_it_holds_an_amount_down() -> None:
    request = Request(2e12, 3e5, max_general_rise=0.05)
    answer = allocate_bases(COMPUTING, request, [base("A", 3e5, 2e6)], general=GENERAL, kept_back=(0.3, 0.5))
    by_budget, by_replay = answer.kept
    assert by_replay.tokens_spec < 0.1 * by_budget.tokens_spec and not by_budget.note
    assert "over 50 % of replay in its stage, the most that any run of the general law had" in by_replay.note
    assert not any("of replay in its stage" in text for text in answer.warnings)
    alone = allocate_bases(COMPUTING, replace(request, flops=1e12), [base("A", 3e5, 2e6)], general=GENERAL)
    assert alone.choices[0].plan.tokens_spec == by_replay.tokens_spec
    assert any(f"specialist tokens, since {by_replay.note}" in text for text in alone.warnings)


@pytest.mark.parametrize(("context", "told"), [(512, True), (128, False)])
def test_windows_of_another_length_than_the_launch_has_are_told_of(context: int, told: bool) -> None:
    """The recipe of the law has 128 tokens."""
    one = Base.parse(f"name=A,params=200k,tokens=4M,context={context},vocab=1024")
    answer = allocate_bases(MEDICINE, Request(2e13, 3e5), [one], allow_extrapolation=True)
    found = [line for line in answer.warnings if "plan launch trains on the recipe's 128" in line]
    assert len(found) == told
    if told:
        short = Base.parse("name=A,params=200k,tokens=4M,context=128,vocab=1024")
        assert "context=128 counts what it will spend" in found[0]
        (less,) = re.findall(r"cost (\S+) % less per token", found[0])
        assert float(less) == pytest.approx(100 * (1 - short.flops_inference(1.0) / one.flops_inference(1.0)), abs=0.6)
