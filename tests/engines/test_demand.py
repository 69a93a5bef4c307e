"""What segments ask for: enough for what they keep, shares that add up, and refusals."""

from dataclasses import replace
from pathlib import Path

import pytest

from planner.design.cells import Cell
from planner.design.tree import build_tree
from planner.engines.demand import BYTES_PER_PARAMETER, MOST_ON_ONE_GPU, PROCESS_BYTES, demand_of, training_bytes
from planner.errors import InputError
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.train.job import Job


def job(size: float, **changes: object) -> Job:
    recipe = Recipe()
    segment = build_tree([Cell(size, 0, 1e6, 0.0, None)], recipe, 1024).segments[0]
    return replace(Job(segment, recipe, Path("."), None, Path("state.safetensors"), Path("."), "special", 0, 0.0, {}), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "seq_len", "vocab", "family"), [(2e4, 128, 1024, "qwen3"), (3e5, 128, 1024, "llama"), (1e6, 512, 4096, "qwen3")])
def test_the_estimate_covers_what_the_backward_pass_keeps(size: float, seq_len: int, vocab: int, family: str) -> None:
    torch = pytest.importorskip("torch")
    from planner.train.model import build_model

    recipe = Recipe(seq_len=seq_len, batch_sequences=4, family=family)
    shape = shape_for(size, family=family, vocab=vocab)
    model = build_model(shape, recipe, 0)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor: object) -> object:
        storage = tensor.untyped_storage()  # type: ignore[attr-defined]
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block = torch.randint(0, vocab, (recipe.batch_sequences, seq_len + 1))
        logits = model(input_ids=block[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.reshape(-1, vocab).float(), block[:, 1:].reshape(-1))
    measured = sum(size for size, _ in kept.values()) + 2 * logits.untyped_storage().nbytes()  # and the gradients of the logits
    estimate = training_bytes(shape, recipe) - PROCESS_BYTES - BYTES_PER_PARAMETER * shape.params_total
    assert measured <= estimate <= 2.5 * measured


def test_cpu_segments_ask_for_their_threads() -> None:
    demand = demand_of(job(2e4, threads=3))
    assert (demand.cpus, demand.gpus) == (3, 0.0) and demand.memory > PROCESS_BYTES


def test_shares_follow_memory_and_never_overfill() -> None:
    alone = demand_of(job(2e4, device="cuda"))
    assert alone.gpus == 1.0, "the memory of a GPU is not guessed"
    for gigabytes in (1.2, 2.0, 3.3, 24.0, 80.0):
        demand = demand_of(job(2e4, device="cuda"), gigabytes * 1e9)
        side_by_side = int(1 / demand.gpus + 1e-9)
        assert side_by_side * demand.memory <= gigabytes * 1e9 and side_by_side <= MOST_ON_ONE_GPU
    assert demand_of(job(2e4, device="cuda"), 80e9).gpus < demand_of(job(2e8, device="cuda"), 80e9).gpus
    assert int(1 / demand_of(job(2e4, device="cuda"), 80e9).gpus) >= 14


def test_a_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"n5e09.*needs about .* GB, and a GPU has 40 GB"):
        demand_of(job(5e9, device="cuda"), 40e9)
