"""Adapters: what is trained, what it costs, states and resumption, and that the merged checkpoint is the model that was measured."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.corpus.store import Corpus
from planner.errors import PlannerError
from planner.ladder import shape_for
from planner.method import Method
from planner.recipe import Recipe
from planner.runs import read_runs
from planner.sweep import Sweep, run_sweep
from tests.train.shared import InlineEngine, checkpoint, lay_out

torch = pytest.importorskip("torch")
pytest.importorskip("peft", reason="peft is not installed")
pytestmark = pytest.mark.slow

SWEEP = """
sizes = ["10k"]
tokens_pt = ["21k"]
tokens_spec = [0, "13.5k", "20k"]
unique_spec = ["5k"]
methods = ["full", "lora"]
"""


def built(recipe: Recipe, method: str, family: str = "qwen3", size: float = 2e4) -> tuple[Any, Any, Any]:
    from planner.train.adapters import adapted
    from planner.train.model import build_model

    shape = shape_for(size, family=family, vocab=300)
    return shape, build_model(shape, recipe, 0), adapted(build_model(shape, recipe, 0), shape, recipe, method, 0)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), Recipe().lora_targets])
def test_only_adapters_are_trained_and_they_change_nothing_at_first(targets: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    recipe = Recipe(seq_len=32, lora_rank=4, lora_targets=targets)
    shape, plain, model = built(recipe, "lora")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == Method("lora", 4, targets).trained(shape)
    ids = torch.arange(64).reshape(2, 32)
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    again = built(recipe, "lora")[2]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)), "the seed decides the adapters"


def test_the_cost_of_a_step_is_that_of_the_real_model() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    recipe = Recipe(seq_len=32, lora_rank=4)
    shape, plain, model = built(recipe, "lora", size=3e5)
    ids = torch.arange(64).reshape(2, 32)
    counted = {}
    for name, chosen in (("full", plain), ("lora", model)):
        chosen.config._attn_implementation = "eager"
        with FlopCounterMode(display=False) as counter:
            chosen(input_ids=ids, labels=ids).loss.backward()
        counted[name] = counter.get_total_flops() / 64
    # Nothing asks for the gradient of the first layer's inputs, nor for that of the embedding's look-up.
    first = 2 * 3 * shape.hidden * shape.hidden
    assert counted["full"] == pytest.approx(Method().flops_per_token(shape, 32), rel=2e-3)
    assert counted["lora"] == pytest.approx(Method("lora", 4).flops_per_token(shape, 32) - first, rel=1e-2)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Sweep:
    """Train the sweep, and keep the states of its endpoints."""
    sweep = Sweep.open(lay_out(tmp_path_factory.mktemp("lora"), corpus, SWEEP))
    assert run_sweep(sweep, InlineEngine(), keep_state=True) == {}
    return sweep


def test_both_methods_are_measured_off_one_trunk(swept: Sweep) -> None:
    frame = read_runs(swept.folder / "runs.csv").set_index("run_id")
    assert len(frame) == 5 and frame["trunk_id"].nunique() == 1
    lora, full = frame[frame["method"] == "lora"], frame[(frame["method"] == "full") & (frame["tokens_spec"] > 0)]
    assert len(lora) == len(full) == 2 and lora.index.str.contains("-lora-sp").all()
    bare = frame.loc[frame["tokens_spec"] == 0, "loss_spec"].iloc[0]
    longest = lora.sort_values("tokens_spec")["loss_spec"].iloc[-1]
    assert abs(longest - bare) > 0.01, "adapters learn; whether that helps so soon depends on the text of this Python"
    assert (lora["flops"].to_numpy() < full["flops"].to_numpy()).all()
    recipe, tip = swept.spec.recipe, swept.tree.by_id[lora.index[0]]
    general = tip.steps_pt * recipe.tokens_per_step * Method().flops_per_token(tip.shape, 32)
    special = tip.last_step * recipe.tokens_per_step * recipe.method("lora").flops_per_token(tip.shape, 32)
    assert lora["flops"].iloc[0] == pytest.approx(general + special)
    assert lora["learning_rate"].iloc[0] == pytest.approx(recipe.lora_lr_multiplier * full["learning_rate"].iloc[0])


def test_a_stop_between_stem_and_tip_changes_nothing(swept: Sweep, tmp_path: Path, corpus: Corpus) -> None:
    class Stops(InlineEngine):
        def run(self, next_job: Any) -> Any:
            for event in super().run(next_job):
                yield event
                if event.job.segment.method == "lora" and event.job.segment.cell is None:
                    return

    sweep = Sweep.open(lay_out(tmp_path, corpus, SWEEP))
    run_sweep(sweep, Stops())
    left = [path.stem for path in (tmp_path / "state").glob("*.safetensors")]
    stem = next(name for name in left if "-lora-sp" in name)
    assert sweep.tree.by_id[stem].frozen_id in left, "the trunk under the adapters is still needed"
    sizes = {name: (tmp_path / "state" / f"{name}.safetensors").stat().st_size for name in left}
    assert sizes[stem] < 0.5 * sizes[str(sweep.tree.by_id[stem].frozen_id)], "an adapter's state does not hold the trunk"
    assert run_sweep(Sweep.open(tmp_path), InlineEngine()) == {}
    assert not list((tmp_path / "state").glob("*.safetensors")), "states outlive their use"
    columns = ["run_id", "loss_spec", "loss_general"]
    assert read_runs(tmp_path / "runs.csv")[columns].equals(read_runs(swept.folder / "runs.csv")[columns])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
def test_checkpoints_of_a_sweep_that_was_finished_without_them(swept: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies under adapters that were kept stays, and an endpoint that cannot be read does not cost the others, nor does a full disk cost a state."""
    from safetensors import SafetensorError

    from planner.launch.checkpoints import export_endpoints

    shutil.copytree(swept.folder, tmp_path, dirs_exist_ok=True)
    sweep = Sweep.open(tmp_path)
    assert run_sweep(Sweep.open(tmp_path), InlineEngine()) == {}, "after a kill, and without --checkpoints"
    whole = {tip.segment_id: tip for tip in sweep.tree.tips}
    states = sorted((tmp_path / "state").glob("*.safetensors"))

    def fill(*arguments: object, **options: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr("transformers.modeling_utils.safe_save_file", fill)
        with pytest.raises(PlannerError, match="checkpoint .* cannot be written: I/O error: No space left on device .*; make room") as said:
            export_endpoints(sweep)
    assert type(said.value) is PlannerError and sorted((tmp_path / "state").glob("*.safetensors")) == states
    torn = next(name for name, tip in whole.items() if tip.method == "lora")
    content = sweep.state_path(whole[torn]).read_bytes()
    sweep.state_path(whole[torn]).write_bytes(content[:100])
    found, failed = export_endpoints(sweep)
    assert len(found) == 4 and list(failed) == [torn] and f"records/{torn}.json" in str(failed[torn].remedy)
    frozen = sweep.tree.by_id[str(whole[torn].frozen_id)]
    assert sweep.state_path(frozen).exists(), "still needed"
    sweep.state_path(whole[torn]).write_bytes(content)
    left = tmp_path / "checkpoints" / f".{torn}.4711"  # of an export that was killed
    left.mkdir()
    found, failed = export_endpoints(sweep)
    assert len(found) == 5 and not failed and not left.exists()
    assert not list((tmp_path / "state").glob("*.safetensors"))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize(("based", "general"), [(False, "13.5k"), (True, 0), (True, "5k")])
def test_the_merged_checkpoint_is_the_model_that_was_measured(tmp_path: Path, corpus: Corpus, method: str, based: bool, general: object) -> None:
    if method == "qlora":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from planner.train.evaluate import heldout_loss
    from planner.train.export import export_checkpoint

    cell = f'tokens_spec = "13.5k", unique_spec = "5k", method = "{method}"'
    if based:
        checkpoint(tmp_path / "base", corpus, attention_dropout=0.3)
        stage = f'"{general}"' if general else "0"
        text = f'base = "base"\ncell = [{{tokens_pt = {stage}, {cell}}}]'
    else:
        text = f'cell = [{{size = "10k", tokens_pt = "13.5k", {cell}}}]'
    sweep = Sweep.open(lay_out(tmp_path / "sweep", corpus, text.replace('"base"', '"../base"')))
    assert run_sweep(sweep, InlineEngine(), keep_state=True) == {}
    row = read_runs(tmp_path / "sweep" / "runs.csv").iloc[0]
    assert row["method"] == method
    job = sweep.job(sweep.tree.tips[0])
    assert job.state_path.exists() and (job.frozen_state is None or job.frozen_state.exists())
    own = corpus.tokenizer_path / "tokenizer.json"
    mode = own.stat().st_mode
    own.chmod(0o400)
    export_checkpoint(job, corpus, tmp_path / "merged", tmp_path / "adapter")
    own.chmod(mode)
    heldout = corpus.tokens("mail", "heldout")

    def loss(model: Any) -> float:
        return heldout_loss(model, heldout, 32, max_tokens=640, device=torch.device("cpu"))[0]

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(merged).__name__.endswith("ForCausalLM") and not [name for name, _ in merged.named_parameters() if "lora" in name]
    assert loss(merged) == pytest.approx(row["loss_spec"], rel=1e-5)
    assert merged.config.attention_dropout == (0.3 if based else 0.0), "left as the base has it, for whoever trains on"
    named = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(tmp_path / ("base" if based and not general else "adapter-trunk")), "a name alone would be asked of a hub"
    modes = {file.name: file.stat().st_mode for folder in ("merged", "adapter") for file in (tmp_path / folder).iterdir()}
    names = ("model.safetensors", "adapter_model.safetensors", "config.json", "tokenizer.json")
    assert {modes[name] for name in names} == {(tmp_path / "sweep" / "runs.csv").stat().st_mode}
    under = AutoModelForCausalLM.from_pretrained(tmp_path / named)
    assert under.config.use_cache == based, "as the checkpoint that it came from"
    assert abs(loss(under) - row["loss_spec"]) > 1e-4, "the adapters do something"
    again = PeftModel.from_pretrained(under, tmp_path / "adapter")
    if method == "qlora":  # these have all their bits, and what the adapters were trained on has four
        library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed").functional
        for layer in [layer.base_layer for layer in again.modules() if hasattr(layer, "base_layer")]:
            packed, state = library.quantize_4bit(layer.weight.data, compress_statistics=True, quant_type="nf4")
            layer.weight.data = library.dequantize_4bit(packed, state)
    assert loss(again) == pytest.approx(row["loss_spec"], rel=1e-5)
    assert not list((tmp_path / "adapter").glob("*.bin")) and (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_packed_matrices_are_frozen_and_near() -> None:
    library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    shape, plain, model = built(Recipe(seq_len=32, lora_rank=4), "qlora", size=3e5)
    packed = {name: layer for name, layer in model.named_modules() if type(layer).__name__ == "Linear4bit" and hasattr(layer.weight, "quant_state")}
    assert len(packed) == 7 * shape.layers and all(layer.weight.dtype == torch.uint8 and not layer.weight.requires_grad for layer in packed.values())
    with torch.no_grad():
        for name, layer in packed.items():
            weight = plain.get_submodule(name.removeprefix("base_model.model.").removesuffix(".base_layer")).weight
            unpacked = library.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            assert 0.01 < (unpacked - weight).norm() / weight.norm() < 0.3, "4 bits are near, and not the same"
            weight.copy_(unpacked)
        ids = torch.arange(64).reshape(2, 32)
        for training in (True, False):
            assert torch.allclose(model.train(training)(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5)


def test_recorded_recipes_keep_their_fingerprints() -> None:
    import csv

    for folder in ("medicine", "computing", "nature", "computing/replay"):
        place = Path(__file__).parents[2] / "sweeps" / folder
        with (place / "runs.csv").open() as file:
            recorded = next(csv.DictReader(file))["recipe"]
        from planner.design.spec import read_sweep

        recipe = read_sweep(place).recipe
        assert recipe.fingerprint == recorded, folder
        assert replace(recipe, lora_rank=8).fingerprint != recorded
        assert Recipe.from_mapping(recipe.to_dict()).fingerprint == recorded
