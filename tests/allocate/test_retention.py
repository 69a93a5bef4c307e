"""Limits on the general loss: kept, by the least replay that the law of the general loss asks for, or refused."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.allocate import allocate, best_plan
from planner.allocate.allocation import Allocation
from planner.allocate.base import Base
from planner.allocate.bases import allocate_bases
from planner.allocate.domains.allocate import allocate_domains
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.optimum import coarse
from planner.allocate.problem import Problem
from planner.allocate.refine import refine_search
from planner.allocate.request import Request
from planner.allocate.retention import GeneralLoss, Retention
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.fit.level import Z
from planner.fit.member import Member
from planner.flops import flops_per_token
from planner.laws import LAWS, Points
from planner.recipe import Recipe
from tests.allocate.problems import recorded
from tests.conftest import REFERENCE

TRUTH = {"A": 3.0, "c": 0.9, "α": 0.12, "β": 1.3, "F": 0.4, "s0": 0.005, "k": 2.5, "b": 400.0, "χ": 0.4}
LAW = LAWS["rehearsal"]
REQUEST = Request(2e13, 2e5)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def general(fitted: FittedLaw) -> FittedLaw:
    """A law of the general loss whose resamples scatter by 1 % of each parameter."""
    theta = np.array([TRUTH[parameter.name] for parameter in LAW.parameters])
    resamples = theta * np.exp(0.01 * np.random.default_rng(0).normal(size=(60, len(theta))))
    member = Member(LAW, "non_embedding", REFERENCE, theta, resamples, "converged", 1, 1, 1.0, (), (), 0.0)
    return replace(fitted, members=(member,), noise=0.01, drift=0.0, source={"replay_fractions": [0.0, 0.1, 0.5]})


def rise(plan: object, share: float) -> float:
    """Return the rise by the formula, at the parameters that the resamples scatter around."""
    replayed = plan.tokens_spec * share / (1 - share)
    theta = np.array([[TRUTH[parameter.name] for parameter in LAW.parameters]])
    after = Points(REFERENCE, plan.params_non_embedding, plan.tokens_pt - replayed, plan.tokens_spec, plan.unique_spec, share)
    before = Points(REFERENCE, plan.params_non_embedding, plan.tokens_pt, 0.0, np.nan)
    return float(LAW.log_loss(theta, after)[0, 0] - LAW.log_loss(theta, before)[0, 0])


@pytest.mark.parametrize("limit", [0.5, 0.2, 0.1, 0.05])
def test_a_limit_is_kept_with_the_least_replay(fitted: FittedLaw, general: FittedLaw, limit: float) -> None:
    answer = allocate(fitted, replace(REQUEST, max_general_rise=limit), general=general)
    kept = answer.general
    assert kept is not None
    assert rise(answer.plan, kept["replay_fraction"]) == pytest.approx(np.log1p(kept["rise_percent"] / 100), abs=0.005)
    assert kept["rise_percent"] <= 100 * limit
    assert 0.4 < kept["probability"] <= 1
    if answer.plan.tokens_spec:
        assert kept["rise_low"] < kept["rise_percent"] < kept["rise_high"]
    else:
        assert kept["rise_low"] == kept["rise_high"] == 0
    assert answer.plan.replay_fraction == kept["replay_fraction"] < 0.5 and (kept["replay_fraction"] > 0 or not answer.plan.tokens_spec)
    smaller = np.arange(round(1000 * kept["replay_fraction"])) / 1000
    assert all(np.expm1(rise(answer.plan, share)) > limit * 0.98 for share in smaller)
    assert answer.tokens_trunk == pytest.approx(answer.plan.tokens_pt - kept["tokens_replayed"]) and answer.tokens_trunk >= 0


def test_a_limit_that_may_be_missed_comes_with_a_surer_one(fitted: FittedLaw, general: FittedLaw) -> None:
    answer = allocate(fitted, replace(REQUEST, max_general_rise=0.2), general=general)
    said = next(text for text in answer.warnings if "would keep it in 95% of runs" in text)
    ask = float(said.split("--max-general-rise ")[1].split("%")[0]) / 100
    assert answer.general is not None and answer.general["probability"] < 0.95 and 0 < ask < 0.2
    surer = allocate(fitted, replace(REQUEST, max_general_rise=ask), general=general)
    assert surer.general is not None and surer.general["rise_high"] < 20.5 < answer.general["rise_high"], "its 90 % interval ends at the limit"


@pytest.mark.parametrize(("params", "budget", "dearer"), [(3e4, 2e12, True), (6e5, 2e13, False)])
def test_replayed_text_is_priced_as_the_stage_that_it_is_in(fitted: FittedLaw, general: FittedLaw, params: float, budget: float, dearer: bool) -> None:
    fitted, general = (replace(law, source={**law.source, "method": "lora"}) for law in (fitted, general))
    answer = allocate(fitted, Request(budget, 2e5, params=params, max_general_rise=0.1), general=general)
    plan, shape, recipe, kept = answer.plan, answer.plan.model_shape, Recipe(), answer.general
    assert kept is not None and kept["tokens_replayed"] > 0
    stage = recipe.method("lora").flops_per_token(shape, recipe.seq_len) * (plan.tokens_spec + kept["tokens_replayed"])
    assert plan.flops == pytest.approx(stage + flops_per_token(shape, recipe.seq_len) * answer.tokens_trunk)
    over = [text for text in answer.warnings if "over the budget: replayed text is trained with lora" in text]
    assert bool(over) == dearer == (plan.flops > budget)


def test_so_it_is_in_every_plan_of_an_answer(fitted: FittedLaw, general: FittedLaw) -> None:
    fitted, general = (replace(law, source={**law.source, "method": "lora"}) for law in (fitted, general))
    limit = 0.1
    answer = allocate(fitted, Request(2e13, 2e5, max_general_rise=limit), general=general)
    shares = {}
    for name, plan in {"guess": answer.best_guess, **{arm.name: arm.plan for arm in (*answer.arms, *answer.alternatives) if arm.plan}}.items():
        lora, full = (Recipe().method(way).flops_per_token(plan.model_shape, Recipe().seq_len) for way in ("lora", "full"))
        replayed = (plan.flops - full * plan.tokens_pt - lora * plan.tokens_spec) / (lora - full)
        assert -1e-6 * plan.tokens_pt <= replayed < plan.tokens_pt
        share = replayed / max(replayed + plan.tokens_spec, 1.0)
        assert share == pytest.approx(plan.replay_fraction, abs=1e-6)
        assert not plan.tokens_spec or rise(plan, share) < np.log1p(limit) + 0.005
        shares[name] = share
    assert shares["guess"] > 0.05 and sum(share > 0.05 for share in shares.values()) > 1 and shares["no specialisation"] == 0


def test_a_refusal_counts_only_what_could_be_trained(fitted: FittedLaw, general: FittedLaw) -> None:
    """Where the general text is short, shares of replay that it does not hold bring no plan nearer to the limit."""
    for limit in (1.0, 2.0, 2.5):
        with pytest.raises(DataError, match=r"the nearest is .* % above it, with .* % of replay .measured: up to 50 %.") as refusal:
            allocate(fitted, replace(REQUEST, unique_spec=2e6, general_tokens=4e5, max_general_loss=limit), general=general)
        assert float(refusal.value.message.split("nearest is ")[1].split(" %")[0]) >= 0
    with pytest.raises(DataError, match="this budget and text allow no general stage, of at least 205k tokens, that could keep "):
        allocate(fitted, replace(REQUEST, unique_spec=2e6, general_tokens=1e5, max_general_rise=0.1), general=general)


@pytest.mark.slow
def test_a_refusal_names_what_would_keep_the_limit() -> None:
    """A budget where it is the budget that binds, more text where it is the text, both where it takes both, and nothing that would not do."""
    law, limit = (FittedLaw.load(ROOT / "sweeps/computing" / name) for name in ("law.json", "replay/law_general.json"))
    request = Request(1e13, 1e6, max_general_loss=3.0)

    def remedy(request: Request) -> str:
        with pytest.raises(DataError, match="no plan of this budget") as refusal:
            allocate(law, request, general=limit)
        return refusal.value.remedy or ""

    assert (found := re.fullmatch(r"relax the limit, or give about (\S+) FLOPs", remedy(request)))
    enough = float(found[1])
    assert allocate(law, replace(request, flops=enough), general=limit).plan.flops <= enough
    assert "about" in remedy(replace(request, flops=0.95 * enough))
    assert remedy(replace(request, max_general_loss=4.9, general_tokens=1e5)) == "relax the limit, or give more general text"
    both = remedy(replace(request, general_tokens=2e6))
    assert f"give more general text and about {enough:.2g} FLOPs, or measure more replay" in both
    assert remedy(replace(request, max_general_loss=0.5)) == "relax the limit"
    assert remedy(replace(request, flops=2e13, params=11e3, max_general_loss=3.2)) == "relax the limit, or give another --params"
    small = remedy(replace(request, flops=2e13, memory_per_gpu=2e6, max_general_loss=3.2))
    assert small == "relax the limit, or give more memory, with --gpus or --gpu-memory"
    assert remedy(replace(request, flops=2 * enough, training_flops=1e13)) == "relax the limit, or give more time"


def test_only_limits_that_may_be_missed_are_named_surer(fitted: FittedLaw, general: FittedLaw) -> None:
    answer = allocate(fitted, replace(REQUEST, max_general_rise=0.2, max_general_loss=50.0), general=general)
    said = next(text for text in answer.warnings if "would keep it in 95% of runs" in text)
    assert "--max-general-rise" in said and "--max-general-loss" not in said


def loss(law: FittedLaw, general: FittedLaw, request: Request) -> float:
    """Return that of the recommended plan, without an answer around it."""
    return best_plan(Problem.of(law, request, general)).loss


def test_tighter_limits_never_help(fitted: FittedLaw, general: FittedLaw) -> None:
    limits = [{}, {"max_general_rise": 0.3}, {"max_general_rise": 0.05}, {"max_general_rise": 0.02}]
    losses = [loss(fitted, general, replace(REQUEST, **limit)) for limit in limits]
    assert all(later >= earlier * (1 - 1e-3) for earlier, later in zip(losses, losses[1:], strict=False))
    assert losses[-1] > losses[0]


@pytest.mark.slow
def test_more_budget_and_text_never_hurt_under_a_limit(fitted: FittedLaw, general: FittedLaw) -> None:
    request = replace(REQUEST, max_general_rise=0.03)
    budgets = [loss(fitted, general, replace(request, flops=flops)) for flops in (1e13, 2e13, 4e13)]
    assert budgets[0] >= budgets[1] * (1 - 1e-3) and budgets[1] >= budgets[2] * (1 - 1e-3)
    texts = [loss(fitted, general, replace(request, general_tokens=tokens)) for tokens in (6e5, 1.5e6, None)]
    assert texts[0] >= texts[1] * (1 - 1e-3) and texts[1] >= texts[2] * (1 - 1e-3)


def test_more_text_does_not_hide_the_best_size_under_a_limit() -> None:
    """A close look at few amounts of text alone passed 74,032 parameters by: 1.6e-4 in ln L."""
    law, limit = recorded("computing"), FittedLaw.load(ROOT / "sweeps/computing/replay/law_general.json")
    found = []
    for factor in (1.0, 1.05, 2.0):
        request = Request(1.33405055e12, factor * 1350544.53, general_tokens=7175705.0, max_general_loss=4.7418537)
        problem = Problem.of(law, request, limit)
        close = refine_search(problem, coarse(problem))
        found.append(float(close.expected[close.best]))
    assert max(found[1:]) <= found[0] + 2e-5


def test_a_limit_on_the_loss_itself(fitted: FittedLaw, general: FittedLaw) -> None:
    free = allocate(fitted, replace(REQUEST, max_general_loss=50.0), general=general)
    assert free.general is not None and free.general["replay_fraction"] == 0
    bound = free.general["loss"] * 0.9
    answer = allocate(fitted, replace(REQUEST, max_general_loss=bound), general=general)
    assert answer.general is not None and answer.general["loss"] <= bound * 1.005
    assert any("a general loss up to" in worth.change for worth in answer.worths)


def test_without_measured_replay_none_is_planned(fitted: FittedLaw, general: FittedLaw) -> None:
    blind = replace(general, source={})
    loose = allocate(fitted, replace(REQUEST, max_general_rise=0.9), general=blind)
    assert loose.general is not None and loose.general["replay_fraction"] == 0
    assert any("not measured" in warning and "replay" in warning for warning in loose.warnings)
    strict = allocate(fitted, replace(REQUEST, max_general_rise=0.001), general=blind)
    assert strict.plan.tokens_spec == 0 and strict.general is not None and strict.general["rise_percent"] == pytest.approx(0)
    with pytest.raises(DataError, match="no plan of this budget keeps a general loss of at most 0.5 nats/token: the nearest is .* % above"):
        allocate(fitted, replace(REQUEST, max_general_loss=0.5), general=blind)


def test_arms_that_pass_the_limit_are_said_so(fitted: FittedLaw, general: FittedLaw) -> None:
    arms = {arm.name: arm for arm in allocate(fitted, replace(REQUEST, max_general_rise=0.05), general=general).arms}
    assert arms["specialist only"].plan is None and "general loss" in arms["specialist only"].note
    assert arms["no specialisation"].plan is not None


def test_wrong_laws_and_limits_are_refused(fitted: FittedLaw, general: FittedLaw) -> None:
    with pytest.raises(InputError, match="needs a law"):
        allocate(fitted, replace(REQUEST, max_general_rise=0.05))
    with pytest.raises(InputError, match="law of the specialist loss"):
        allocate(fitted, replace(REQUEST, max_general_rise=0.05), general=fitted)
    with pytest.raises(InputError, match="another corpus"):
        allocate(
            replace(fitted, source={**fitted.source, "corpus": "one"}), replace(REQUEST, max_general_rise=0.05),
            general=replace(general, source={**general.source, "corpus": "two"}),
        )  # fmt: skip
    with pytest.raises(InputError, match="max-general-rise of -0.1"):
        replace(REQUEST, max_general_rise=-0.1)
    with pytest.raises(InputError, match="max-general-loss of 0"):
        replace(REQUEST, max_general_loss=0.0)


def test_the_file_keeps_it(fitted: FittedLaw, general: FittedLaw, tmp_path: Path) -> None:
    answer = allocate(fitted, replace(REQUEST, max_general_rise=0.1), general=general)
    answer.save(tmp_path / "a.json", {})
    again = Allocation.load(tmp_path / "a.json")
    assert again.general == answer.general and again.replay_fraction == answer.replay_fraction > 0


@pytest.mark.parametrize("limit", [0.3, 0.1])
def test_a_base_is_specialised_as_far_as_the_limit_lets_it(fitted: FittedLaw, general: FittedLaw, limit: float) -> None:
    """Held against every amount of text with every share of replay that the budget pays."""
    base = Base.parse("name=one,params=100k,tokens=2M,context=128,vocab=1024")
    request = Request(1.5e12, 1e6, max_general_rise=limit)
    choice = allocate_bases(fitted, request, [base], general=general).choices[0]
    kept, plan = choice.general, choice.plan
    assert kept is not None and 0 < kept["rise_percent"] <= 100 * limit and plan.flops <= 1.5e12 * (1 + 1e-9)
    assert plan.tokens_pt == pytest.approx(2e6 + kept["tokens_replayed"])
    replayed = kept["replay_fraction"] / (1 - kept["replay_fraction"]) * plan.tokens_spec
    assert kept["tokens_replayed"] == pytest.approx(replayed)
    most = 1.5e12 / flops_per_token(base.shape, 128)
    assert plan.tokens_spec + replayed <= most * (1 + 1e-9)
    size = {"non_embedding": [base.shape.params_non_embedding], "total": [base.params_total(1024)]}
    ends = []
    for spec in np.geomspace(1e4, most, 300):
        for share in (0.0, 0.1, 0.5):
            amount = spec / (1 - share)
            after, before = (float(general.log_loss(general.points(size, [2e6], [text], [1e6], [part]))[0]) for text, part in ((spec, share), (0.0, 0.0)))
            if amount <= most and after - before <= np.log1p(limit):
                points = fitted.points(size, [2e6 + amount - spec], [spec], [1e6])
                ends.append(float(fitted.log_loss_resamples(points)[:, 0].mean()))
    mine = fitted.points(size, [plan.tokens_pt], [plan.tokens_spec], [1e6])
    assert float(fitted.log_loss_resamples(mine)[:, 0].mean()) <= min(ends) + 1e-4
    free = allocate_bases(fitted, replace(request, max_general_rise=None), [base]).choices[0].plan
    assert free.tokens_spec > plan.tokens_spec and free.loss < plan.loss


def test_bases_that_keep_no_limit_are_left_out_or_refused(fitted: FittedLaw, general: FittedLaw) -> None:
    bases = [Base.parse(f"name={name},params=100k,tokens={tokens},context=128,vocab=1024") for name, tokens in (("short", "300k"), ("long", "4M"))]
    before = [
        choice.general["loss_before"]
        for base in bases
        for choice in allocate_bases(fitted, Request(1e12, 1e6, max_general_loss=50.0), [base], general=general).choices
        if choice.general
    ]
    between = Request(1e12, 1e6, max_general_loss=(before[0] + before[1]) / 2)
    answer = allocate_bases(fitted, between, bases, general=general)
    assert [choice.base for choice in answer.choices] == ["long"]
    assert any(text.startswith("left out: short: its general loss") and "above the limit, a general loss of at most" in text for text in answer.warnings)
    above = 100 * (2 * before[0] / sum(before) - 1)
    assert list(answer.left_out) == ["short"] and f"is {above:.2g} % above the limit, a general loss of" in answer.left_out["short"]
    with pytest.raises(DataError, match="no base keeps a general loss of .*, specialised or not: the nearest, long, is 100 "):
        allocate_bases(fitted, replace(between, max_general_loss=0.5 * before[1]), bases, general=general)
    with pytest.raises(InputError, match="needs a law of the general loss"):
        allocate_bases(fitted, between, bases)


def test_what_a_base_gains_does_not_depend_on_where_its_general_loss_begins(fitted: FittedLaw, general: FittedLaw) -> None:
    """A base above the limit that specialising with replay brings below it."""
    base = Base.parse("name=short,params=100k,tokens=300k,context=128,vocab=1024")
    free = allocate_bases(fitted, Request(2e12, 1e6, max_general_loss=50.0), [base], general=general).choices[0]
    assert free.general is not None
    choice = allocate_bases(fitted, Request(2e12, 1e6, max_general_loss=0.999 * free.general["loss_before"]), [base], general=general).choices[0]
    assert choice.plan.tokens_spec > 0 and choice.general is not None and choice.general["loss"] < free.general["loss_before"]
    assert choice.gain_percent == pytest.approx(100 * (1 - choice.plan.loss / choice.loss_before), abs=0.5) and choice.gain_high < 60


def test_a_base_that_stays_as_it_is_does_not_forget(fitted: FittedLaw, general: FittedLaw) -> None:
    base = Base.parse("name=one,params=100k,tokens=2M,context=128,vocab=1024")
    answer = allocate_bases(fitted, Request(1.5e12, 1e6, max_general_rise=1e-6), [base], general=general)
    kept = answer.choices[0].general
    assert answer.choices[0].plan.tokens_spec == 0 and kept is not None
    assert (kept["rise_low"], kept["rise_percent"], kept["rise_high"], kept["probability"]) == (0, 0, 0, 1) and not answer.longer
    assert any("so none is planned" in text for text in answer.warnings)


def test_a_part_of_the_budget_that_adapters_save_on_replay_is_said(fitted: FittedLaw, general: FittedLaw) -> None:
    fitted, general = (replace(law, source={**law.source, "method": "lora"}) for law in (fitted, general))
    answer = allocate(fitted, Request(1.5e13, 1e6, params=6e5, max_general_rise=0.03), general=general)
    left = 1 - answer.plan.flops / 1.5e13
    said = [text for text in answer.warnings if "which is cheaper than the general stage whose cost the search assumed" in text]
    assert bool(said) == (left > 0.02)


def test_the_interval_of_a_rise_drifts_outside_the_runs_of_the_general_law(fitted: FittedLaw, general: FittedLaw) -> None:
    wide = replace(general.support, low=dict.fromkeys(general.support.low, 1e-9), high=dict.fromkeys(general.support.high, 1e30))
    drifting = replace(general, drift=0.02, support=wide)
    request = replace(REQUEST, max_general_rise=0.2)
    plan = best_plan(Problem.of(fitted, request, general))

    def told(law: FittedLaw) -> GeneralLoss:
        retention = Retention.of(law, request)
        assert retention is not None
        return retention.tell(plan, 0.0)

    support = replace(wide, high={**wide.high, "params": plan.params_non_embedding / 20})
    inside, outside, without = told(drifting), told(replace(drifting, support=support)), told(replace(general, support=support))
    assert inside.extrapolation == 1 and (inside.rise_low, inside.rise_high) == (without.rise_low, without.rise_high)
    near, far = (np.log1p(kept.rise_high / 100) - np.log1p(kept.rise_percent / 100) for kept in (without, outside))
    assert np.sqrt(far**2 - near**2) == pytest.approx(Z * 0.02 * np.log(outside.extrapolation)) and outside.extrapolation == pytest.approx(20)
    assert outside.rise_percent == without.rise_percent and abs(outside.probability - 0.5) < abs(without.probability - 0.5)


def test_a_plan_too_far_beyond_the_runs_of_the_general_law_is_refused(fitted: FittedLaw, general: FittedLaw) -> None:
    support, plan = general.support, best_plan(Problem.of(fitted, replace(REQUEST, max_general_rise=0.2), general))
    low = replace(general, support=replace(support, high={**support.high, "flops": plan.flops / 1100}))
    base = Base.parse("name=A,tokens=20M,params=200k,vocab=1024,context=128")
    request = replace(REQUEST, max_general_rise=0.2)
    with pytest.raises(DataError, match=r"beyond the runs of the general law to be recommended: compute 1,\d\d\d×"):
        allocate(fitted, request, general=low)
    assert allocate(fitted, request, general=low, allow_extrapolation=True).general is not None
    with pytest.raises(DataError, match="beyond the runs of the general law to be recommended"):
        allocate_bases(fitted, request, [base], general=low)
    domains = DomainsRequest(REQUEST.flops, (Domain("a", fitted, 2e5, general_law=low), Domain("b", fitted, 2e5, general_law=low)), max_general_rise=0.2)
    with pytest.raises(DataError, match="the best plan of domain 'a' lies too far beyond the runs of the general law"):
        allocate_domains(domains)


def test_a_tight_rise_that_makes_the_model_worse_at_everything_is_said() -> None:
    law, general = (FittedLaw.load(ROOT / "sweeps/computing" / name) for name in ("law.json", "replay/law_general.json"))
    request = Request(1e13, 2e5, max_general_rise=0.01)
    tight = allocate(law, request, general=general)
    (said,) = [text for text in tight.warnings if "would be better in both losses" in text]
    assert not any("--max-general-rise" in text for text in tight.warnings), "no still tighter limit is advised"
    rise = float(re.findall(r"rises ([\d.]+) %", said)[0]) / 100
    loose = allocate(law, replace(request, max_general_rise=1.05 * rise), general=general)
    assert tight.general is not None and loose.general is not None
    assert loose.plan.loss < tight.plan.loss and loose.general["loss"] < tight.general["loss"]
    assert not any("would be better in both losses" in text for text in loose.warnings)
    by_loss = allocate(law, replace(request, max_general_rise=None, max_general_loss=3.6), general=general)
    assert not any("both losses" in text for text in by_loss.warnings)
