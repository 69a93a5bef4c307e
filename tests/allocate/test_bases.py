"""Which checkpoint, how far and by which method, against counts that others publish and losses worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.base import Base
from planner.allocate.base_beside import other_laws
from planner.allocate.bases import allocate_bases
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.flops import flops_per_token
from planner.method import Method
from tests.conftest import true_log_loss

LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}


@pytest.fixture
def seven(tmp_path: Path) -> Base:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B))
    return Base.parse(f"name=seven,tokens=2T,config={tmp_path}")


def small(name: str, params: str, tokens: str) -> Base:
    return Base.parse(f"name={name},params={params},tokens={tokens},context=128,vocab=32000")


def test_a_checkpoint_is_counted_as_its_makers_and_peft_count_it(seven: Base) -> None:
    assert seven.shape.params_total == 6_738_415_616
    assert Method("lora", 16).trained(seven.shape) == 39_976_960
    assert Method("lora", 8).trained(seven.shape) * 2 == 39_976_960


def test_flops_of_the_methods(seven: Base) -> None:
    shape = seven.shape
    matrices = shape.params_total - 32000 * 4096 - (2 * 32 + 1) * 4096
    scores = 32 * 2 * 4096 * 4096
    assert Method().flops_per_token(shape, 4096) == 6 * (matrices + scores)
    lora = Method("lora", 16).flops_per_token(shape, 4096)
    assert lora == 4 * matrices + 6 * scores + 6 * 39_976_960
    assert Method("qlora", 16).flops_per_token(shape, 4096) == lora


def test_memory_of_the_methods(seven: Base) -> None:
    full, lora, qlora = (Method(name).bytes_per_gpu(seven.shape, 1, 4096) for name in ("full", "lora", "qlora"))
    assert 16 * 6.738e9 < full < 16 * 6.738e9 + 3e9
    assert 2 * 6.738e9 + 16 * 4e7 < lora < 17.5e9
    assert qlora < 8e9  # 4-bit tuning of 7B on one consumer GPU, arXiv 2305.14314
    assert Method("qlora").bytes_per_gpu(seven.shape, 8, 4096) > 0.5 * 6.4e9, "packed matrices are whole on every GPU"
    shared = Method().bytes_per_gpu(seven.shape, 8, 4096)
    activations = (8 * shared - full) / 7
    assert 0 < activations < 3e9


def test_the_choice_is_the_least_loss_of_the_law(fitted: FittedLaw) -> None:
    bases = [small("short", "100k", "1M"), small("long", "100k", "4M"), small("little", "25k", "4M")]
    answer = allocate_bases(fitted, Request(4e11, 2e5, max_epochs=8), bases, Method())
    best = {}
    for base in bases:
        most = min(4e11 / Method().flops_per_token(base.shape, 128), 8 * 2e5)
        spec = np.append(np.geomspace(most / 500, most, 3000), 0.0)
        best[base.name] = float(np.exp(true_log_loss(base.shape.params_non_embedding, base.tokens, spec, 2e5)).min())
    assert [choice.base for choice in answer.choices] == sorted(best, key=lambda name: best[name])
    for choice in answer.choices:
        plan = choice.plan
        assert plan.loss == pytest.approx(best[choice.base], rel=0.01)
        assert plan.flops <= 4e11 * (1 + 1e-9) and plan.epochs_spec <= 8 + 1e-6
        assert choice.gain_low <= choice.gain_percent <= choice.gain_high
        assert 100 * (1 - plan.loss / choice.loss_before) == pytest.approx(choice.gain_percent, abs=1.0)
    assert sum(choice.probability for choice in answer.choices) == pytest.approx(1.0)
    assert "long" in answer.longer or "little" in answer.longer
    assert answer.scratch.plan is not None and answer.scratch.plan.flops <= 4.01e11


def test_a_longer_trained_base_that_adapts_less_is_said_so(fitted: FittedLaw) -> None:
    # With the truth of the fixture the general tokens stand in for specialist ones: the more there are, the less there is to gain.
    answer = allocate_bases(fitted, Request(1e12, 1e6), [small("short", "100k", "700k"), small("long", "100k", "4.4M")], Method())
    gains = {choice.base: choice.gain_percent for choice in answer.choices}
    assert gains["long"] < gains["short"]
    assert answer.longer.startswith("long (44 general tokens") and "in 100% of the resamples" in answer.longer


def test_more_text_and_compute_never_hurt(fitted: FittedLaw) -> None:
    bases = [small("a", "100k", "1M")]
    loss = [allocate_bases(fitted, Request(flops, 1e5), bases, Method()).choices[0].plan.loss for flops in (5e11, 2e12, 1e13)]
    assert loss[0] > loss[1] >= loss[2] * (1 - 1e-4)
    answer = allocate_bases(fitted, Request(4e13, 1e5), bases, Method())
    worth = {item.change.split(" (")[0]: item.lower_percent for item in answer.worths}
    assert worth["twice the specialist text"] > worth["10 % more compute"] > -1e-4
    assert "% of the budget is left over" in " ".join(answer.warnings)


def test_what_is_kept_back_costs_what_a_smaller_budget_does(fitted: FittedLaw) -> None:
    base = [small("a", "300k", "1M")]
    answer = allocate_bases(fitted, Request(4e12, 2e6), base, Method(), kept_back=(0.2, 0.5))
    less = allocate_bases(fitted, Request(2e12, 2e6), base, Method())
    assert answer.kept[0].higher_percent < answer.kept[1].higher_percent
    assert answer.kept[1].tokens_spec == less.choices[0].plan.tokens_spec
    assert answer.kept[1].higher_percent == pytest.approx(100 * (less.choices[0].plan.loss / answer.choices[0].plan.loss - 1), abs=0.2)
    with pytest.raises(InputError, match="kept-back 1 "):
        allocate_bases(fitted, Request(4e12, 2e6), base, Method(), kept_back=(1.0,))


def test_cheaper_methods_see_more_text_and_say_what_is_not_measured(fitted: FittedLaw) -> None:
    base = [small("a", "300k", "1M")]
    full, lora = (allocate_bases(fitted, Request(2e12, 2e6), base, Method(name, 4)) for name in ("full", "lora"))
    assert lora.choices[0].plan.tokens_spec > 1.1 * full.choices[0].plan.tokens_spec
    assert any("not measured by this law" in warning for warning in lora.warnings)
    assert not any("lora" in warning for warning in full.warnings)


def test_what_does_not_fit_is_left_out_or_refused(fitted: FittedLaw) -> None:
    bases = [small("a", "300k", "1M"), small("b", "60k", "1M")]
    between = (Method().bytes_per_gpu(bases[0].shape, 1, 128) + Method().bytes_per_gpu(bases[1].shape, 1, 128)) / 2
    answer = allocate_bases(fitted, Request(4e11, 2e5, memory_per_gpu=between), bases, Method())
    assert [choice.base for choice in answer.choices] == ["b"] and any("left out: a" in warning for warning in answer.warnings)
    with pytest.raises(DataError, match="b needs .* MB on each of 1 GPUs"):
        allocate_bases(fitted, Request(4e11, 2e5, memory_per_gpu=1e3), bases, Method())


def test_a_budget_that_pays_no_stage_is_refused(fitted: FittedLaw) -> None:
    with pytest.raises(DataError, match=r"1e\+03 FLOPs do not pay for 200 steps"):
        allocate_bases(fitted, Request(1e3, 2e5), [small("a", "300k", "1M")], Method())


def test_a_vocabulary_of_its_own_makes_no_larger_model(fitted: FittedLaw, seven: Base) -> None:
    """A law that counts embeddings has seen one vocabulary: bases count with that one."""
    assert seven.params_total(1024) == seven.shape.params_non_embedding + 1024 * 4096
    larger = replace(seven, shape=replace(seven.shape, vocab=128_256))
    assert larger.params_total(1024) == seven.params_total(1024)


def test_far_bases_need_leave(fitted: FittedLaw, seven: Base) -> None:
    request = Request(1e21, 30e9)
    with pytest.raises(DataError, match="too far beyond the runs"):
        allocate_bases(fitted, request, [seven], Method())
    answer = allocate_bases(fitted, request, [seven], Method(), allow_extrapolation=True)
    assert any("an illustration, not a measured result" in warning for warning in answer.warnings)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name=a",
        "name=a,tokens=2T",
        "name=a,tokens=2T,params=7B,config=x",
        "name=a,tokens=2T,params=seven",
        "name=a,tokens=0,params=7B",
        "name=a,tokens=-1,params=7B",
        "name=a,name=b,tokens=2T,params=7B",
        "name=a,tokens=2T,params=7B,size=3",
        "name=a,tokens=2T,params=7B,context=0.5",
        "name=a,tokens=2T,config=nowhere",
        "name=,tokens=1,params=7B",
        "name=a,tokens=2T,params=70",
    ],
)
def test_bad_bases_are_one_sentence(text: str) -> None:
    with pytest.raises(InputError):
        Base.parse(text)


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    for body in (
        {**LLAMA_2_7B, "model_type": "t5"},
        {key: value for key, value in LLAMA_2_7B.items() if key != "hidden_size"},
        {**LLAMA_2_7B, "hidden_size": None},
        {**LLAMA_2_7B, "num_attention_heads": 0},
        {**LLAMA_2_7B, "model_type": ["llama"]},
    ):
        (tmp_path / "config.json").write_text(json.dumps(body))
        with pytest.raises(InputError):
            Base.parse(f"name=a,tokens=2T,config={tmp_path}")


def test_bases_of_other_families_are_counted_and_idle_experts_told_of(fitted: FittedLaw, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 1024, "max_position_embeddings": 128}
    experts = {"intermediate_size": 96, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    bases = []
    for kind, more in (("gpt2", {}), ("mixtral", experts)):
        (tmp_path / f"{kind}.json").write_text(json.dumps({"model_type": kind, **sizes, **more}))
        bases.append(Base.parse(f"name={kind},tokens=2M,context=128,config={tmp_path / kind}.json"))
    assert bases[0].shape.params_non_embedding == 2 * (12 * 64**2 + 13 * 64) + 2 * 64  # arXiv 2001.08361's 12·layers·width², biases and norms
    assert Base.parse(f"name=a,tokens=2M,config={tmp_path / 'gpt2'}.json").context == 128, "no more than it has positions"
    with pytest.raises(InputError, match="context = 129 is longer than its 128 positions"):
        Base.parse(f"name=a,tokens=2M,context=129,config={tmp_path / 'gpt2'}.json")
    idle = 2 * 3 * 64 * 96 * 2
    assert flops_per_token(bases[1].shape, 128) == pytest.approx(6 * (bases[1].shape.params_non_embedding - idle + 1024 * 64 + 2 * 128 * 64 * 2), rel=0.01)
    answer = allocate_bases(fitted, Request(4e11, 2e5), bases, Method())
    said = [text for text in answer.warnings if "each token skips" in text]
    assert len(said) == 1 and said[0].startswith(f"mixtral: each token skips {100 * idle / bases[1].shape.params_non_embedding:.0f} %")
    assert {choice.base for choice in answer.choices} == {"gpt2", "mixtral"}
    for base in bases:
        assert Base.from_dict(json.loads(json.dumps(base.to_dict()))) == replace(base, config=None)


def test_limits_that_a_base_has_itself_are_refused(fitted: FittedLaw) -> None:
    base = [small("a", "100k", "1M")]
    for request in (Request(4e11, 2e5, params=1e5), Request(4e11, 2e5, general_tokens=1e6), Request(4e11, 2e5, params_among=(1e5,))):
        with pytest.raises(InputError, match="own size"):
            allocate_bases(fitted, request, base, Method())
    with pytest.raises(InputError, match="names"):
        allocate_bases(fitted, Request(4e11, 2e5), base * 2, Method())
    one = replace(fitted, members=tuple(replace(member, law=replace(member.law, stages=1)) for member in fitted.members))
    with pytest.raises(DataError, match="single-stage runs"):
        allocate_bases(one, Request(4e11, 2e5), base, Method())
    with pytest.raises(InputError):
        Method("adapters")
    with pytest.raises(InputError):
        Method("lora", 0)


def test_a_law_of_adapters_is_asked_as_it_was_measured(fitted: FittedLaw) -> None:
    law = replace(fitted, source={**fitted.source, "method": "lora", "recipe": {**fitted.source["recipe"], "lora_rank": 4}})
    base = [small("a", "300k", "1M")]
    by_itself, named = allocate_bases(law, Request(2e12, 2e6), base), allocate_bases(law, Request(2e12, 2e6), base, Method("lora", 4))
    assert by_itself.request["method"]["name"] == "lora" and by_itself.choices[0].plan == named.choices[0].plan
    assert not any("not measured by this law" in warning for warning in by_itself.warnings)
    other = " ".join(allocate_bases(law, Request(2e12, 2e6), base, Method("lora", 64)).warnings)
    assert "adapters of rank 4 on" in other and "adapters of rank 64 on" in other
    assert "the effect of full on the loss is not measured" in " ".join(allocate_bases(law, Request(2e12, 2e6), base, Method()).warnings)


def test_every_base_far_from_the_runs_is_named(fitted: FittedLaw) -> None:
    answer = allocate_bases(fitted, Request(1e12, 1e6), [small("near", "100k", "700k"), small("far", "20k", "60T")], Method(), allow_extrapolation=True)
    far = [text for text in answer.warnings if text.startswith("EXTRAPOLATION: far lies outside the runs by: ")]
    assert len(far) == 1 and "general tokens" in far[0]
    assert any(text.startswith("far: no such distance was ever tested") for text in answer.warnings)


def test_methods_stand_side_by_side(fitted: FittedLaw) -> None:
    base = small("one", "300k", "2M")
    answer = allocate_bases(fitted, Request(1e12, 1e6, memory_per_gpu=6e7), [base], Method("lora", 4))
    full, lora, qlora = answer.ways
    assert [way.method for way in answer.ways] == ["full", "lora", "qlora"]
    assert [way.measured for way in answer.ways] == [True, False, False] and [way.chosen for way in answer.ways] == [False, True, False]
    assert (lora.tokens_spec, lora.trained) == (answer.choices[0].plan.tokens_spec, Method("lora", 4).trained(base.shape))
    assert all(way.higher_percent is None for way in answer.ways) and lora.loss is None and qlora.loss is None and full.loss is not None
    assert full.fits == (full.bytes_per_gpu <= 6e7) and lora.fits and qlora.bytes_per_gpu < lora.bytes_per_gpu < full.bytes_per_gpu
    asked = allocate_bases(fitted, Request(1e12, 1e6), [base], Method()).choices[0].plan
    assert full.tokens_spec == asked.tokens_spec and full.flops == pytest.approx(asked.flops)


def test_other_methods_are_forecast_by_laws_of_their_own(fitted: FittedLaw) -> None:
    member, base = fitted.members[0], small("one", "300k", "2M")
    number = [parameter.name for parameter in member.law.parameters].index("E")
    dearer = replace(member, theta=member.theta.copy(), resamples=member.resamples.copy())
    for values in (dearer.theta, dearer.resamples):
        values[..., number] *= 1.5
    source = {**fitted.source, "method": "lora", "recipe": {**fitted.source["recipe"], "lora_rank": 4}}
    lora = replace(fitted, members=(dearer,), source=source)
    asked, request = allocate_bases(fitted, Request(1e12, 1e6), [base], others=[lora]), Request(1e12, 1e6)
    own = allocate_bases(lora, request, [base], others=[fitted])
    full, adapted, packed = asked.ways
    plan, theirs = asked.choices[0].plan, own.choices[0].plan
    assert (adapted.loss, adapted.loss_low, adapted.loss_high) == (theirs.loss, theirs.loss_low, theirs.loss_high)
    assert (full.loss, full.higher_percent, full.other_law) == (plan.loss, 0, False) and packed.higher_percent is None
    assert adapted.other_law and adapted.measured and adapted.trained == Method("lora", 4).trained(base.shape)
    assert adapted.higher_percent == pytest.approx(100 * (theirs.loss / plan.loss - 1), abs=0.1) and adapted.higher_percent > 5
    assert not any("lower than full" in text for text in asked.warnings)
    said = next(text for text in own.warnings if text.startswith("full is forecast "))
    assert f"{plan.loss:.4g} ({plan.loss_low:.4g} to {plan.loss_high:.4g}) against {theirs.loss:.4g}" in said
    wished = allocate_bases(fitted, request, [base], Method("lora", 4), others=[lora])
    assert any("a law of runs with lora was found beside" in text for text in wished.warnings) and not wished.measured
    # A limit on the general loss would need a law of it for every method.
    assert other_laws(Problem.of(fitted, request), [lora]).keys() == {"lora"}
    limited = replace(Problem.of(fitted, request), request=replace(request, max_general_rise=0.05))
    assert other_laws(limited, [lora]) == {}


def test_vocabularies_that_were_not_said_or_differ_are_told(fitted: FittedLaw) -> None:
    bases = [Base.parse("name=a,tokens=1T,params=7B"), Base.parse("name=b,tokens=1T,params=7B,vocab=128256")]
    warnings = allocate_bases(fitted, Request(1e20, 1e9), bases, Method(), allow_extrapolation=True).warnings
    assert any(text.startswith("a: a vocabulary of 32,000 is assumed") for text in warnings)
    assert any("vocabularies of 32,000, 128,256 words" in text for text in warnings)
