"""Adapters in both stages, off an open checkpoint: one set goes through, the base stays, stops change nothing, and what it costs is counted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from planner.corpus.store import Corpus
from planner.design.spec import read_sweep
from planner.errors import InputError
from planner.fit.data import of_method
from planner.method import Method
from planner.runs import read_runs
from planner.sweep import Sweep, run_sweep
from tests.train.shared import RECIPE, InlineEngine, checkpoint, lay_out

torch = pytest.importorskip("torch")
pytest.importorskip("peft", reason="peft is not installed")
pytestmark = pytest.mark.slow

SWEEP = """
name = "both"
base = "../base"
[[grid]]
tokens_pt = ["13k"]
tokens_spec = [0, "13.5k"]
unique_spec = ["5k"]
methods = ["full", "lora", "lora-both"]
[[grid]]
tokens_pt = ["26k"]
tokens_spec = ["13.5k"]
unique_spec = ["5k"]
methods = ["lora-both"]
"""
GRID = 'tokens_pt = ["13k"]\ntokens_spec = [0]\nunique_spec = ["5k"]\nmethods = ["lora-both"]'
RATES = RECIPE + "lora_lr_multiplier = 2.0\nspecial_lr_multiplier = 0.5\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    folder = tmp_path_factory.mktemp("both")
    checkpoint(folder / "base", corpus)
    return folder


class Watches(InlineEngine):
    """Notes the tensors and the optimiser's steps of each state when it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, tuple[set[str], int, str]] = {}

    def run(self, next_job: Any) -> Any:
        from safetensors import safe_open

        from planner.train.checkpoint import read_loop

        for event in super().run(next_job):
            path = event.job.state_path
            if path.exists():
                with safe_open(path, framework="pt") as file:
                    # The file's header has the seconds it took.
                    digest = hashlib.sha256(b"".join(file.get_tensor(name).numpy().tobytes() for name in sorted(file.keys()))).hexdigest()
                    self.states[event.job.segment.segment_id] = set(file.keys()), read_loop(path).optimiser_steps, digest
            yield event


@pytest.fixture(scope="module")
def swept(folder: Path, corpus: Corpus) -> tuple[Sweep, Watches]:
    sweep, engine = Sweep.open(lay_out(folder / "sweep", corpus, SWEEP, RATES)), Watches()
    assert run_sweep(sweep, engine) == {}
    return sweep, engine


def test_runs_of_other_methods_stay_what_they_were(swept: tuple[Sweep, Watches], folder: Path, corpus: Corpus) -> None:
    before = Sweep.open(lay_out(folder / "before", corpus, SWEEP.replace(', "lora-both"', "").replace('"lora-both"', '"full"')))
    now = Sweep.open(lay_out(folder / "now", corpus, SWEEP.replace('methods = ["lora-both"]', 'methods = ["full", "lora-both"]')))
    others = [segment for segment in now.tree.segments if segment.method != "lora-both"]
    assert others == list(before.tree.segments) and len(now.tree.segments) > len(others)
    assert not any("both" in segment.segment_id for segment in others)
    assert all("-lora-both-pt" in segment.segment_id for segment in now.tree.segments if segment.method == "lora-both")


def test_states_are_adapters_that_go_on_from_stage_to_stage(swept: tuple[Sweep, Watches]) -> None:
    sweep, engine = swept
    both = [segment for segment in sweep.tree.segments if segment.method == "lora-both"]
    assert {segment.stage for segment in both} == {"general", "special"} and not any(segment.frozen_id for segment in both)
    assert sum(segment.starts_adapters for segment in both) == 1, "one set"
    assert [segment.warmup for segment in both if segment.stage == "special"] == [False] * 4, "and one optimiser"
    for segment in both:
        if segment.cell is None:
            names, steps, _ = engine.states[segment.segment_id]
            assert names and all("lora_" in name for name in names) and len(names) % 3 == 0, "weights and two moments"
            assert steps == segment.steps_pt + segment.last_step


def test_rows_name_the_method_and_count_its_cost(swept: tuple[Sweep, Watches]) -> None:
    sweep, _ = swept
    frame, recipe = read_runs(sweep.folder / "runs.csv").set_index("run_id"), sweep.spec.recipe
    both = frame[frame["method"] == "lora-both"]
    assert len(frame) == 6 and len(both) == 3 and both["trunk_id"].nunique() == 1 and not set(both["trunk_id"]) & set(frame.drop(both.index)["trunk_id"])
    assert set(both["branch_kind"]) == {"annealed"} and list(both["learning_rate"]) == [8e-3, 4e-3, 4e-3]  # both factors of RATES in the specialist stage
    # 4 FLOPs a frozen weight and token, 6 an adapter's of rank 4; two layers of 2·32·32 + 2·32·16 in attention and 3·32·48; 32 tokens attend.
    shape = sweep.tree.tips[0].shape
    adapters = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    token = 4 * (2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + shape.vocab * 32) + 6 * adapters + 6 * 2 * 32 * 32 * 2
    for run, row in both.iterrows():
        tip = sweep.tree.by_id[str(run)]
        assert row["flops"] == pytest.approx((row["steps_pt"] + row["steps_spec"]) * 64 * token, rel=1e-3), tip
        path = [tip]
        while path[0].parent_id is not None:
            path.insert(0, sweep.tree.by_id[path[0].parent_id])
        assert row["flops"] == pytest.approx(sum(sweep.tree.flops(segment) for segment in path))
    assert token == pytest.approx(Method("lora-both", 4).general.flops_per_token(shape, recipe.seq_len), rel=1e-3)
    assert {method: len(of_method(frame.reset_index(), method)) for method in ("full", "lora", "lora-both")} == {"full": 2, "lora": 2, "lora-both": 3}


def test_a_stop_inside_the_trunk_changes_nothing(swept: tuple[Sweep, Watches], folder: Path, corpus: Corpus) -> None:
    class Stops(Watches):
        def run(self, next_job: Any) -> Any:
            for event in super().run(next_job):
                yield event
                if event.job.segment.method == "lora-both":
                    return

    stopped, again = Stops(), Watches()
    sweep = Sweep.open(lay_out(folder / "again", corpus, SWEEP, RATES))
    run_sweep(sweep, stopped)
    last = sweep.tree.by_id[stopped.trained[-1]]
    assert last.stage == "general" and any(child.stage == "general" for child in sweep.tree.children[last.segment_id])
    assert run_sweep(Sweep.open(folder / "again"), again) == {} and last.segment_id not in again.trained
    assert (folder / "again" / "runs.csv").read_bytes() == (swept[0].folder / "runs.csv").read_bytes()
    assert {**stopped.states, **again.states} == swept[1].states, "to the last bit"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("method", ["lora-both", "qlora-both"])
@pytest.mark.parametrize("spec", ["0", '"13.5k", unique_spec = "5k", replay_fraction = 0.03'])
def test_the_adapters_alone_make_the_base_what_was_measured(folder: Path, corpus: Corpus, tmp_path: Path, method: str, spec: str) -> None:
    if method == "qlora-both":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from planner.train.evaluate import heldout_loss
    from planner.train.export import export_checkpoint

    before = (folder / "base" / "model.safetensors").read_bytes()
    text = f'base = "{folder / "base"}"\ncell = [{{tokens_pt = "13k", tokens_spec = {spec}, method = "{method}"}}]'
    sweep = Sweep.open(lay_out(tmp_path, corpus, text))
    assert run_sweep(sweep, InlineEngine(), keep_state=True) == {}
    row = read_runs(tmp_path / "runs.csv").iloc[0]
    assert row["method"] == method and row["steps_pt"] == 203
    export_checkpoint(sweep.job(sweep.tree.tips[0]), corpus, tmp_path / "merged", tmp_path / "adapter")

    def loss(model: Any) -> float:
        return heldout_loss(model, corpus.tokens("mail", "heldout"), 32, max_tokens=640, device=torch.device("cpu"))[0]

    assert loss(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) == pytest.approx(row["loss_spec"], rel=1e-5)
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    assert loss(base) > row["loss_spec"] + 0.01 and (folder / "base" / "model.safetensors").read_bytes() == before
    if method == "lora-both":
        assert loss(PeftModel.from_pretrained(base, tmp_path / "adapter")) == pytest.approx(row["loss_spec"], rel=1e-5)


def test_sweeps_can_share_trunks_of_adapters(folder: Path, corpus: Corpus) -> None:
    trained = []
    for name in ("first", "second"):
        engine = InlineEngine()
        cell = f'tokens_pt = "13k", tokens_spec = "13.5k", unique_spec = "{5 + len(trained)}k", method = "lora-both"'
        text = f'trunks = "../trunks"\nbase = "../base"\ncell = [{{{cell}}}]'
        assert run_sweep(Sweep.open(lay_out(folder / name, corpus, text)), engine) == {}
        trained.append(engine.trained)
    assert [sum("-sp" not in segment for segment in segments) for segments in trained] == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sizes = ["10k"]\n' + GRID, "'lora-both' .*no base.*state base ="),
        ('cell = [{size = "10k", tokens_pt = "13k", tokens_spec = 0, method = "qlora-both"}]', "'qlora-both' .*no base.*state base ="),
        ('base = "b"\nearly_fractions = [0, 0.1]\n' + GRID, "early fraction of 0.1"),
        ('base = "b"\ncell = [{tokens_pt = 1e5, tokens_spec = 0, early_fraction = 0.2, unique_spec = 1e4, method = "lora-both"}]', "fraction of 0.2"),
        ('base = "b"\ncell = [{tokens_pt = "13k", tokens_spec = 0, method = "lora"}]', "method = 'lora' and no specialist stage"),
        ('base = "b"\ncell = [{tokens_pt = "13k", tokens_spec = 0, method = "both"}]', "full, lora, qlora, lora-both, qlora-both"),
    ],
)
def test_what_there_is_not_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sweep.toml").write_text(f'corpus = "c"\n{text}')
    with pytest.raises(InputError, match=message):
        read_sweep(tmp_path)
