"""The loss through torch.compile is the loss; a sweep that is stopped goes on through it to the same table."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from planner.corpus.store import Corpus
from planner.design.compiling import has_compiler
from planner.engines.local import LocalEngine
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.sweep import Sweep, run_sweep
from planner.train.loss import compiled_loss, mean_loss
from planner.train.model import build_model
from planner.train.order import IGNORED
from tests.engines.tiny import lay_out


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


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler for torch.compile")
def test_a_compiled_sweep_is_the_sweep_and_goes_on_to_the_same_digits(tmp_path: Path, corpus: Corpus) -> None:
    tables = {}
    for name, compiled in (("plain", False), ("compiled", True), ("stopped", True)):
        folder = lay_out(tmp_path / name, corpus)
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                run_sweep(Sweep.open(folder), LocalEngine(1), compiled=True, on_event=stop_after(3))
        assert run_sweep(Sweep.open(folder), LocalEngine(1), compiled=compiled) == {}
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
