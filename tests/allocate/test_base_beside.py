"""What is said beside the choice of a base: whether an interaction is known, a model of one's own that is better, and the regret of each base."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.base import Base
from planner.allocate.base_answer import BaseAllocation
from planner.allocate.bases import allocate_bases
from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.request import Request
from planner.artifacts import sha256_file
from planner.cli.decision import read_decision
from planner.fit.fitted import FittedLaw
from planner.launch.start import read_plan
from planner.method import Method

ROOT = Path(__file__).parents[2]
INTERACTION = ROOT / "examples" / "law_interaction.json"
LLAMAS = [
    Base.parse("name=LLaMA-2-7B,tokens=2T,params=6.5B,vocab=32000"),
    Base.parse("name=LLaMA-3-8B,tokens=15T,params=7B,vocab=128256,context=4096"),
]
SHORT, LONG = (Base.parse(f"name={name},params=100k,tokens={tokens},context=128,vocab=1024") for name, tokens in (("short", "700k"), ("long", "4.4M")))


def llamat(law: FittedLaw) -> BaseAllocation:
    return allocate_bases(law, Request(1.3e21, 30e9), LLAMAS, allow_extrapolation=True)


def with_interaction(law: FittedLaw, value: float) -> FittedLaw:
    """Set the interaction to one value in all resamples."""
    member = law.members[0]
    number = [parameter.name for parameter in member.law.parameters].index("ι")
    resamples = member.resamples.copy()
    resamples[:, number] = value
    return replace(law, members=(replace(member, resamples=resamples),))


def test_a_smaller_gain_is_not_taken_for_an_interaction() -> None:
    """The base that starts lower gains less in all resamples whatever the interaction is; in which share that has the sign is said beside it."""
    law = FittedLaw.load(INTERACTION)
    said = llamat(law).longer
    assert "gains less from specialising than LLaMA-2-7B (308) in 100% of the resamples" in said and "It starts at a lower loss in 100% of them" in said
    values = law.members[0].resamples[:, 6]
    assert f"holds in {(values > 0).mean():.0%} of the resamples (90 % interval -0.0052 to 0.0084), so the runs do not determine its sign" in said
    for value, share in ((0.0, "0%"), (-0.02, "0%"), (0.003, "100%")):
        said = llamat(with_interaction(law, value)).longer
        assert f"holds in {share} of the resamples" in said
        assert value > 0 or "in 100% of the resamples: " in said


def test_a_law_without_such_a_parameter_says_so(fitted: FittedLaw) -> None:
    said = allocate_bases(fitted, Request(1e12, 1e6), [SHORT, LONG], Method()).longer
    assert said.startswith("long (44 general tokens") and "no parameter for an interaction" in said and "ι" not in said


def test_from_scratch_that_is_forecast_better_is_warned_of() -> None:
    medicine = FittedLaw.load(ROOT / "sweeps" / "medicine" / "law.json")
    small = Base.parse("name=A,tokens=400k,params=20k,vocab=1024,context=128")
    for robust in (True, False):
        answer = allocate_bases(medicine, Request(4e12, 3e5), [small], robust=robust)
        warned = [text for text in answer.warnings if text.startswith("FROM SCRATCH IS FORECAST BETTER")]
        assert answer.scratch.plan is not None and answer.scratch.worse_percent is not None
        lower = -answer.scratch.worse_percent if robust else 100 * (1 - answer.scratch.plan.loss / answer.choices[0].plan.loss)
        assert len(warned) == 1 and f"its loss is {lower:.3g} % lower than that of the best base, A" in warned[0]
        assert "lower in 100% of the resamples" in warned[0]
        assert 15 < lower < 17
    # Two passes are cheap for so small a base, which a model of one's own is not.
    rich = allocate_bases(medicine, Request(4e13, 3e5, max_epochs=2.0), [small])
    spent, own = rich.choices[0].plan.flops, rich.scratch.plan
    assert own is not None and own.flops > 10 * spent
    assert any(f"for {own.flops:.3g} FLOPs (the base takes {spent:.3g})" in text for text in rich.warnings)
    equal = allocate_bases(medicine, Request(4e11, 3e5), [small])
    assert all("for the same FLOPs" in text for text in equal.warnings if "SCRATCH" in text)
    large = Base.parse("name=B,tokens=4M,params=300k,vocab=1024,context=128")
    answer = allocate_bases(medicine, Request(1e12, 3e5), [large])
    assert answer.scratch.worse_percent is not None and answer.scratch.worse_percent > 0
    assert not any("SCRATCH" in text or "would reach a lower loss" in text for text in answer.warnings)


def test_general_tokens_that_do_harm_are_warned_of() -> None:
    """By the interaction's form they do where ι·ln(1 + S/s0) is over β: in more than half the resamples after 27.5B specialist tokens."""
    law = FittedLaw.load(INTERACTION)
    answer, member = llamat(law), law.members[0]
    at = {parameter.name: member.resamples[:, number] for number, parameter in enumerate(member.law.parameters)}
    seen = answer.choices[0].plan.tokens_spec / member.reference.tokens
    share = float((at["ι"] * np.log1p(seen / at["s0"]) > at["β"]).mean())
    assert share > 0.5
    assert any(text.startswith(f"in {share:.0%} of the resamples LLaMA-2-7B would reach a lower loss") for text in answer.warnings)
    assert not any("would reach a lower loss" in text for text in llamat(with_interaction(law, 0.0)).warnings)


def test_the_regret_is_against_each_resample_s_own_best_base_and_amount(fitted: FittedLaw) -> None:
    member = fitted.members[0]
    wide = member.theta * (member.resamples / member.theta) ** 4  # so that resamples differ in what is best
    law = replace(fitted, members=(replace(member, resamples=np.clip(wide, 1e-6, 30)),))
    bases = [Base.parse(f"name={name},params={size},tokens=1M,context=128,vocab=1024") for name, size in (("large", "200k"), ("small", "60k"))]
    answer = allocate_bases(law, Request(2e12, 2e5, max_epochs=12), bases)
    ends, own = {}, []
    for base in bases:
        choice = next(choice for choice in answer.choices if choice.base == base.name)
        most = min(2e12 / Method().flops_per_token(base.shape, 128), 12 * 2e5)
        spec = np.append(np.geomspace(most / 300, most, 2000), [0.0, choice.plan.tokens_spec])
        size = {"non_embedding": np.full(len(spec), float(base.shape.params_non_embedding)), "total": np.full(len(spec), 1.0)}
        loss = law.log_loss_resamples(law.points(size, np.full(len(spec), 1e6), spec, np.full(len(spec), 2e5)), MOST_RESAMPLES)
        ends[base.name] = loss[:, -1]
        own.append(loss.min(1))
    for choice in answer.choices:
        regret = 100 * np.expm1(ends[choice.base] - np.min(own, axis=0))
        assert choice.regret_expected_percent == pytest.approx(regret.mean(), abs=0.01)
        assert choice.regret_90_percent == pytest.approx(np.quantile(regret, 0.9), abs=0.02)
    assert answer.choices[0].regret_90_percent > 0 and answer.choices[1].regret_expected_percent > answer.choices[0].regret_expected_percent


def test_a_file_from_before_the_regret_is_still_read(fitted: FittedLaw, tmp_path: Path) -> None:
    fitted.save(tmp_path / "law.json", {})
    answer = allocate_bases(fitted, Request(9e11, 2e5), [SHORT, LONG])
    path = tmp_path / "allocation.json"
    replace(answer, source={**answer.source, "law_path": "law.json"}).save(path, {"law": sha256_file(tmp_path / "law.json")})
    body = json.loads(path.read_text())
    assert all(choice.pop("regret_expected_percent") >= 0 and choice.pop("regret_90_percent") >= 0 for choice in body["choices"])
    path.write_text(json.dumps(body))
    assert [base.name for base in read_decision(path).bases] == ["short", "long"]
    assert read_plan(path).allocation.plan == answer.choices[0].plan


def test_of_bases_trained_alike_none_is_called_the_longer_one(fitted: FittedLaw) -> None:
    """Two of one size and as many tokens were told as one that gains less than itself."""
    answer = allocate_bases(fitted, Request(1e12, 1e6), [SHORT, replace(SHORT, name="other"), replace(SHORT, name="third", context=64)], Method())
    assert len(answer.choices) == 3 and not answer.longer
