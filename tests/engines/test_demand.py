"""What segments ask for: enough for what they keep, shares that add up, and refusals."""

from dataclasses import replace
from pathlib import Path

import pytest

from planner.design.cells import Cell
from planner.design.tree import build_tree
from planner.engines.demand import MOST_ON_ONE_GPU, demand_of, host_bytes
from planner.errors import InputError
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.train.job import Job
from planner.train.micro_batch import BYTES_PER_PARAMETER, PROCESS_BYTES, training_bytes


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
    with pytest.raises(InputError, match=r"n5e09.*needs about .* GB, but a GPU has 40 GB"):
        demand_of(job(5e9, device="cuda"), 40e9)


def with_method(method: str, size: float = 1e8, **changes: object) -> Job:
    plain = job(size, **changes)
    return replace(plain, segment=replace(plain.segment, method=method))


def test_adapters_ask_for_what_they_keep() -> None:
    """Frozen weights have no gradients and no moments; packed ones are half a byte each, once they are loaded."""
    need = {method: demand_of(with_method(method, device="cuda"), 80e9).memory for method in ("full", "lora", "qlora")}
    params = with_method("full").segment.shape.params_total
    assert need["qlora"] < need["lora"] < need["full"] and need["full"] - need["lora"] > 10 * params
    assert demand_of(with_method("qlora", 1e9)).memory >= 4e9, "on a CPU it is loaded in fp32 before it is packed"


def test_attention_on_a_gpu_keeps_no_scores() -> None:
    big = job(1e6, recipe=Recipe(seq_len=4096, batch_sequences=2))
    shape = big.segment.shape
    host, gpu = demand_of(big).memory, demand_of(replace(big, device="cuda")).memory
    scores = 4 * 2 * 4096 * 4096 * shape.layers * shape.heads
    assert host - gpu == pytest.approx(scores - 2 * shape.params_total), "but autocast's copies of the weights"


def test_a_large_batch_is_cut_into_passes_and_not_refused() -> None:
    large = job(1e6, device="cuda", recipe=Recipe(seq_len=2048, batch_sequences=256))
    whole = demand_of(large, 1000e9)
    cut = demand_of(large, 24e9)
    assert whole.memory > 24e9 >= cut.memory and 0.5 < cut.gpus <= 1
    assert demand_of(replace(large, device="cpu")).memory < 6e9


def test_the_host_has_room_for_the_model_and_for_its_state() -> None:
    params = with_method("full", 5e9).segment.shape.params_total
    assert host_bytes(with_method("full", 1e6)) == 8e9
    assert host_bytes(with_method("lora", 5e9)) == pytest.approx(1.3 * 4 * params)
    assert host_bytes(with_method("full", 5e9)) == pytest.approx(1.3 * 12 * params)
