"""States that are read where they are trained on: on a GPU every tensor of a fused optimiser must be there."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")


def test_every_tensor_of_the_optimiser_is_where_its_parameter_is(tmp_path: Path) -> None:
    from planner.train.checkpoint import LoopState, load_state, save_state

    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    save_state(tmp_path / "state.safetensors", model, optimiser, LoopState(optimiser_steps=1))
    (tmp_path / "new").touch()
    assert (tmp_path / "state.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode, "as of any new file"
    elsewhere = torch.nn.Linear(3, 2, device="meta")  # stands for a GPU
    restored = torch.optim.AdamW(elsewhere.parameters())
    load_state(tmp_path / "state.safetensors", elsewhere, restored)
    assert len(restored.state) == 2
    for parameter, state in restored.state.items():
        assert {key: value.device for key, value in state.items()} == dict.fromkeys(("step", "exp_avg", "exp_avg_sq"), parameter.device)
