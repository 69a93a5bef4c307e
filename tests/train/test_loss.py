"""The loss through torch.compile is the loss; a sweep that is stopped goes on through it to the same table."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import gc
from pathlib import Path

import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from planner.corpus.store import Corpus
from planner.design.compiling import has_compiler
from planner.engines.local import LocalEngine
from planner.errors import PlannerWarning
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.sweep import Sweep, run_sweep
from planner.train.adapters import adapted
from planner.train.loss import compiled_loss, loss_function, mean_loss
from planner.train.model import build_model
from planner.train.order import IGNORED
from tests.engines.tiny import lay_out
from tests.train.shared import InlineEngine


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at what it traces
def test_one_compiled_function_serves_several_models() -> None:
    loss_of = compiled_loss("aot_eager")
    words = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(0))
    inputs, whole = words[:, :-1], words[:, 1:]
    some, none = whole.clone(), torch.full_like(whole, IGNORED)
    some[:, ::2] = IGNORED
    for size in (1e4, 2e4, 1e4):
        model = build_model(shape_for(size, family="qwen3", vocab=64), Recipe(seq_len=16), seed=int(size))
        for targets in (whole, some, none):
            every = bool((targets != IGNORED).all())
            values = [each(model, inputs, targets, every) for each in (mean_loss, loss_of)]
            slopes = [torch.autograd.grad(value, list(model.parameters())) for value in values]
            assert values[1].item() == pytest.approx(values[0].item(), abs=1e-6)
            assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*slopes, strict=True))
    assert values[0].item() == 0 and not any(slope.any() for slope in slopes[0]), "a batch of prompts alone teaches nothing"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_models_under_adapters_are_compiled_too() -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    loss_of, words = compiled_loss("aot_eager"), torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    recipe = Recipe(seq_len=16, lora_rank=2)
    shape = shape_for(1e4, family="qwen3", vocab=64)
    model = adapted(build_model(shape, recipe, seed=0), shape, recipe, "lora", 0)
    trained = [item for item in model.parameters() if item.requires_grad]
    values = [each(model, words, words, True) for each in (mean_loss, loss_of)]
    slopes = [torch.autograd.grad(value, trained) for value in values]
    assert values[1].item() == pytest.approx(values[0].item(), abs=1e-6)
    assert any(slope.any() for slope in slopes[0]) and all(torch.allclose(*pair, atol=1e-6) for pair in zip(*slopes, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_segments_are_compiled_where_they_are_told_to(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    calls = []

    def counted(model, inputs, targets, whole):  # type: ignore[no-untyped-def]
        calls.append(whole)
        return mean_loss(model, inputs, targets, whole)

    monkeypatch.setattr("planner.train.loss.compiled_loss", lambda: counted)
    monkeypatch.setattr("planner.design.compiling.has_compiler", lambda: True)
    monkeypatch.setattr("planner.train.loss.has_compiler", lambda: True)
    sweep = Sweep.open(lay_out(tmp_path / "tiny", corpus, tokens_pt='["21k"]'))
    assert run_sweep(sweep, InlineEngine(), compiled=asked) == {}
    assert len(calls) == (sum(segment.steps for segment in sweep.tree.segments) if asked else 0)


def test_a_machine_that_cannot_compile_trains_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    tries = []

    def broken(function, **options):  # type: ignore[no-untyped-def]
        def fail(*arguments: object) -> None:
            tries.append(1)
            raise TorchDynamoException("fatal error: omp.h: No such file")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    words = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    model = build_model(shape_for(1e4, family="qwen3", vocab=64), Recipe(seq_len=16), seed=0)
    loss_of = compiled_loss.__wrapped__()
    with pytest.warns(PlannerWarning, match="this worker trains without it: fatal error: omp.h"):
        first = loss_of(model, words, words, True)
    assert first.item() == loss_of(model, words, words, True).item() == mean_loss(model, words, words, True).item() and len(tries) == 1
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert loss_function(True) is mean_loss


def test_cycles_are_looked_for_again_after_what_may_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are not while it does: a quarter of the time that tracing takes."""
    seen = []

    def traced(function, **settings):  # type: ignore[no-untyped-def]
        def told(*given):  # type: ignore[no-untyped-def]
            seen.append(gc.isenabled())
            if len(seen) == 4:
                raise ValueError("of the model")
            return function(*given)

        return told

    monkeypatch.setattr(torch, "compile", traced)
    loss_of, words = compiled_loss.__wrapped__(), torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    first, second = (build_model(shape_for(1e4, family="qwen3", vocab=64), Recipe(seq_len=16), seed=seed) for seed in (0, 1))
    for model in (first, first, second):
        loss_of(model, words, words, True)
        assert gc.isenabled()
    with pytest.raises(ValueError, match="of the model"):
        loss_of(first, words, words, True)
    assert gc.isenabled() and seen == [False, True, False, False]


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler for torch.compile")
def test_a_compiled_sweep_is_the_sweep_and_goes_on_to_the_same_digits(tmp_path: Path, corpus: Corpus) -> None:
    tables = {}
    for name in ("plain", "compiled", "stopped"):
        folder, here = lay_out(tmp_path / name, corpus, tokens_pt='["21k"]'), InlineEngine()
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                run_sweep(Sweep.open(folder), here, compiled=True, on_event=stop_after(3))
        # What was stopped goes on in a new process, which compiles for itself.
        assert run_sweep(Sweep.open(folder), LocalEngine(1) if name == "stopped" else here, compiled=name != "plain") == {}
        tables[name] = pd.read_csv(folder / "runs.csv").drop(columns="sweep")
    pd.testing.assert_frame_equal(tables["compiled"], tables["stopped"])
    pd.testing.assert_frame_equal(tables["compiled"], tables["plain"], rtol=2e-3)  # rounding, enlarged by training


def stop_after(count: int):  # type: ignore[no-untyped-def]
    left = [count]

    def hear(event) -> None:  # type: ignore[no-untyped-def]
        left[0] -= event.kind == "finished"
        if left[0] == 0:
            raise KeyboardInterrupt

    return hear
