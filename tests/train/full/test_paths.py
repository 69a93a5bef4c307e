"""The ways in which a run can be carried out, and that what they must not change they do not."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import math
import pickle
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from planner.artifacts import read_json
from planner.corpus.store import Corpus
from planner.errors import InputError, MissingDependencyError, StateError
from planner.train.full.forecast_curve import Expected, ForecastCurve
from planner.train.full.mesh import Ranks
from planner.train.full.plan import FullRun, Settings, latest_step, rows_of_rank
from planner.train.full.shard import build
from planner.train.full.states import States
from tests.train.full.runs import RECIPE, SETTINGS, STEPS, finish, lay, losses, row, run_here, start, steps_of, wait_for
from tests.train.shared import checkpoint


@pytest.fixture(scope="module")
def plain(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it is by default, with losses measured on the way."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    lay(folder, corpus)
    assert run_here(folder)
    return folder


def largest(first: Path, second: Path) -> float:
    return max(abs(a - b) for a, b in zip(losses(first), losses(second), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at what it traces
@pytest.mark.parametrize(
    ("change", "close"),
    [({"micro_batch": 1}, 1e-5), ({"micro_batch": 3}, 1e-5), ({"checkpoint_activations": True}, 0.0), ({"compile_backend": "aot_eager"}, 1e-4)],
    ids=["one sequence a pass", "uneven passes", "activations computed again", "compiled"],
)
def test_how_a_step_is_computed_does_not_change_it(plain: Path, corpus: Corpus, tmp_path: Path, change: dict[str, object], close: float) -> None:
    lay(tmp_path / "run", corpus, settings=replace(SETTINGS, **change))
    assert run_here(tmp_path / "run")
    assert largest(plain, tmp_path / "run") <= close


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("again", [False, True], ids=["activations kept", "activations computed again"])
def test_all_of_twelve_layers_are_compiled_once(corpus: Corpus, tmp_path: Path, again: bool) -> None:
    """More layers than torch compiles variants of one function: it would go on without, and says so only in its counters."""
    from torch._dynamo.utils import counters

    graphs, runs = [0], [0]

    def backend(graph: Any, inputs: Any) -> Any:
        graphs[0] += 1

        def run(*arguments: Any) -> Any:
            runs[0] += 1
            return graph.forward(*arguments)

        return run

    ready = lay(tmp_path / "run", corpus, base=checkpoint(tmp_path / "base", corpus, num_hidden_layers=12), method="full")
    torch._dynamo.reset()
    counters.clear()
    settings = replace(SETTINGS, compile_backend=backend, checkpoint_activations=again)  # type: ignore[arg-type]
    model = build(FullRun.load(ready.folder).stages[0], corpus, Ranks(0, 1, torch.device("cpu"), None), settings)
    model(input_ids=torch.arange(8)[None]).logits.sum().backward()
    assert (graphs, runs) == ([1], [12])
    assert not counters["recompile_limit"] and not counters["graph_break"]


@pytest.mark.slow
def test_two_ranks_in_bfloat16_with_all_that_saves_memory(plain: Path, corpus: Corpus, tmp_path: Path) -> None:
    """On gloo, copies of one rank each: it runs, and ends near the run in fp32."""
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    savings = {"precision": "bf16", "compile_backend": "aot_eager", "checkpoint_activations": True, "micro_batch": 1, "shard_ranks": 1}
    settings = replace(SETTINGS, tensorboard=True, peak_flops=1e12, **savings)  # type: ignore[arg-type]
    lay(folder, corpus, ranks=2, settings=settings)
    finish(folder, start(folder))
    assert largest(plain, folder) < 0.3 and losses(folder) != losses(plain)
    assert abs(row(folder)["loss_spec"] - row(plain)["loss_spec"]) < 0.1
    assert list((folder / "tensorboard").iterdir())
    run = FullRun.load(folder)
    from planner.flops import flops_per_token

    for line in steps_of(folder).values():
        per_second = line["tokens_per_second"] * flops_per_token(run.last.segment.shape, run.recipe.seq_len)
        assert line["mfu"] == pytest.approx(per_second / 2e12)
    # The weights that are kept are in fp32, whatever the passes are in.
    from safetensors import safe_open

    with safe_open(folder / "checkpoint" / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}


def test_without_a_stated_peak_there_is_no_mfu(plain: Path) -> None:
    assert {line["mfu"] for line in steps_of(plain).values()} == {None}


def test_losses_on_the_way_are_measured_where_they_were_asked_for(plain: Path) -> None:
    from planner.train.full.metrics import read_metrics

    lines = [line for line in read_metrics(plain / "metrics.jsonl") if line["kind"] == "evaluation"]
    run = FullRun.load(plain)
    assert [line["step"] for line in lines] == list(run.settings.evaluate_at) and len(lines) >= 4
    for line in lines:
        assert (line["rate_share"] < 1) == (line["step"] > run.cooldown_from)
    assert STEPS not in run.settings.evaluate_at


def test_while_the_rate_warms_up_it_is_shown_as_it_is_and_nothing_is_foretold(corpus: Corpus, tmp_path: Path) -> None:
    """The loss of a rate that has yet to rise is far above the forecast of any run, and no part of the line that the cooldown is read off."""
    from planner.train.full.metrics import read_metrics

    folder = tmp_path / "run"
    lay(folder, corpus)
    run = FullRun.load(folder)
    steps = (3, 8, RECIPE.warmup_steps, 20)
    replace(run, settings=replace(run.settings, evaluate_at=steps)).save(folder)
    ForecastCurve(tuple(Expected(step, 1e3, 2.0, 1.9, 2.1) for step in (*steps, STEPS))).save(folder)
    assert not run_here(folder, stop_at=22)
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["rate_share"] for line in lines if line["kind"] == "evaluation"] == pytest.approx([0.3, 0.8, 1.0, 1.0])
    words = [line for line in lines if line.get("what") == "forecast"]
    assert [line["step"] for line in words] == [RECIPE.warmup_steps, 20] and "far above" in words[0]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_states_are_saved_by_the_clock_too(corpus: Corpus, tmp_path: Path, ranks: int) -> None:
    """All ranks save after the same step, though each has a clock of its own: after every step here, whatever the steps between two states."""
    folder = tmp_path / "run"
    lay(folder, corpus, ranks, replace(SETTINGS, save_every=1000, save_minutes=1e-9))
    if ranks == 1:
        assert not run_here(folder, stop_at=12)
    else:
        process = start(folder, {"wait": 0.02})
        wait_for(folder, process, 12)
        process.kill()
    last = latest_step(folder)
    assert 10 <= last < STEPS
    kept = sorted(int(path.parent.name.removeprefix("step-")) for path in (folder / "states").glob("step-*/loop.json") if path.parent.suffix != ".part")
    assert kept[0] == 0 and last in kept and len(kept) <= 3, "the latest by the clock takes no place from those that a rollback goes back to"


def test_a_rank_that_is_lost_while_states_are_written_or_read_is_no_fault_of_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that leaves word of a fault that a user must mend keeps Slurm from putting the job back into its queue."""

    def breaks(*arguments: object, **options: object) -> None:
        raise RuntimeError("Connection reset by peer")

    mesh: Any = object()
    states, lost = States(tmp_path, Ranks(0, 2, torch.device("cpu"), mesh), 3), Future[None]()
    lost.set_exception(RuntimeError("Connection reset by peer"))
    states._saving = lost, 5
    with pytest.raises(RuntimeError, match="Connection reset"):
        states.finish()
    monkeypatch.setattr("planner.train.full.states._Reader", breaks)
    with pytest.raises(RuntimeError, match="Connection reset"):
        states.load(5, {})


def test_a_pickle_in_a_state_is_not_opened(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lay(folder, corpus)
    assert not run_here(folder, stop_at=12)
    state = folder / "states" / "step-000000012"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "exploded").touch, ())

    (state / ".metadata").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(StateError, match="not part of a state"):
        run_here(folder)
    (state / ".metadata").unlink()
    (state / "more.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(StateError, match="not part of a state"):
        run_here(folder)
    (state / "more.safetensors").unlink()
    state.rename(tmp_path / "of another launch")
    state.symlink_to(tmp_path / "of another launch")
    with pytest.raises(StateError, match="step-000000012 is a link, and no state is read from elsewhere; delete it"):
        run_here(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_torn_state_is_named_with_the_remedy_and_the_one_before_serves(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lay(folder, corpus)
    assert not run_here(folder, stop_at=12)
    state = folder / "states" / "step-000000012"
    file = next(state.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(StateError, match="step-000000012 cannot be read.*delete"):
        run_here(folder)
    for path in (*state.iterdir(), state):
        path.unlink() if path.is_file() else path.rmdir()
    assert not run_here(folder, stop_at=11)
    assert read_json(folder / "states" / "latest.json")["step"] == 11


def test_an_older_state_that_is_torn_stops_no_run_that_does_not_read_it(plain: Path, corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lay(folder, corpus)
    assert not run_here(folder, stop_at=25)
    loop = folder / "states" / "step-000000010" / "loop.json"
    loop.write_bytes(loop.read_bytes()[:30])
    assert run_here(folder)
    assert losses(folder) == losses(plain) and not loop.exists()


@pytest.mark.parametrize("content", [None, "{", "{}", '{"step": "12"}', '{"step": null}', '{"step": -3}', "[]"])
def test_states_without_the_file_that_names_the_latest_are_not_begun_anew(tmp_path: Path, content: str | None) -> None:
    """The command, which reads it first, and the ranks: a run from step 0 on would delete them."""
    assert latest_step(tmp_path) == -1
    states = tmp_path / "states"
    (states / "step-000000000").mkdir(parents=True)  # a kill before the file was first written leaves that
    assert latest_step(tmp_path) == -1
    (states / "step-000000012").mkdir()
    if content is not None:
        (states / "latest.json").write_text(content)
    for reads in (lambda: latest_step(tmp_path), States(tmp_path, Ranks(1, 2, torch.device("cpu"), None), 3).steps):
        with pytest.raises(StateError, match=r'latest.json is (missing|torn).*; write \{"step": N\} into .*latest.json, where N is that of the last'):
            reads()
    (states / "latest.json").write_text('{"step": 12}')
    assert latest_step(tmp_path) == 12


@pytest.mark.parametrize("lost", ["loop.json", "folders", "name"])
def test_a_run_all_of_whose_states_are_lost_is_not_begun_anew_unasked(corpus: Corpus, tmp_path: Path, lost: str) -> None:
    """Nor are those deleted that are later than a step named by mistake."""
    folder = tmp_path / "run"
    lay(folder, corpus)
    assert not run_here(folder, stop_at=32)
    held = sorted((folder / "states").glob("step-*"))
    if lost == "name":
        (folder / "states" / "latest.json").write_text('{"step": 3}')
    for state in held:
        for path in [] if lost == "name" else [state / "loop.json"] if lost == "loop.json" else [*state.iterdir()]:
            path.unlink()
    with pytest.raises(StateError, match=f"names step {3 if lost == 'name' else 32}, but no complete state .*; write .*, or delete .*states to train"):
        run_here(folder)
    assert sorted((folder / "states").glob("step-*")) == held and list(steps_of(folder)) == list(range(1, 33))


@pytest.mark.parametrize("content", ["", "{}", '{"step": "x"}', '{"step": 12, "seconds": 1.0, "smooth": [], "best": null}'])
def test_a_loop_file_of_another_shape_is_one_sentence_with_one_remedy(corpus: Corpus, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "run"
    lay(folder, corpus)
    assert not run_here(folder, stop_at=12)
    (folder / "states" / "step-000000012" / "loop.json").write_text(content)
    with pytest.raises(StateError, match="step-000000012 cannot be read: [^;]*; delete [^;]*; the same command continues from the state before.$"):
        run_here(folder)


@pytest.mark.parametrize(("world", "remedy"), [(3, "such as 2"), (8, "such as 4")])
def test_ranks_that_do_not_divide_the_batch_are_refused(world: int, remedy: str) -> None:
    assert [rows_of_rank(4, rank, 2) for rank in range(2)] == [(0, 2), (2, 4)]
    with pytest.raises(InputError, match=remedy):
        rows_of_rank(4, 0, world)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "tpu"),
        ("precision", "fp8"),
        ("micro_batch", 0),
        ("save_every", -1),
        ("save_minutes", 0.0),
        ("keep", 1),
        ("peak_flops", 3.0),
        ("peak_flops", math.inf),
    ],
)
def test_settings_that_cannot_be_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError):
        Settings(**{field: value})  # type: ignore[arg-type]


def test_a_laid_down_run_reads_back(plain: Path) -> None:
    run = FullRun.load(plain)
    run.save(plain)
    assert FullRun.load(plain) == run
    assert run.at(39) == (0, 39) and run.at(40) == (1, 0) and run.steps == STEPS


def test_a_gpu_that_is_not_there_is_refused_before_training(corpus: Corpus, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    lay(tmp_path / "run", corpus, settings=replace(SETTINGS, device="cuda", precision="bf16"))
    with pytest.raises(InputError, match="torch finds no GPU"):
        run_here(tmp_path / "run")


def test_weights_and_biases_is_refused_where_it_is_not_installed(corpus: Corpus, tmp_path: Path) -> None:
    from importlib.util import find_spec

    if find_spec("wandb"):
        pytest.skip("it is installed")
    lay(tmp_path / "run", corpus, settings=replace(SETTINGS, wandb="planned"))
    with pytest.raises(MissingDependencyError, match="wandb"):
        run_here(tmp_path / "run")
