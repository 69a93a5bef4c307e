"""What is decided when a run goes wrong, and that it then goes on without the batches that are to blame."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import math
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from planner.corpus.store import Corpus
from planner.train.full.guards import SPIKE_BATCHES, Watch, batch_number, blamed, merged, step_of
from planner.train.full.loop import Guarded, Training
from planner.train.full.metrics import Metrics, read_metrics
from planner.train.full.plan import FullRun, latest_step
from planner.train.full.states import States
from tests.train.full.faults import install
from tests.train.full.runs import GENERAL, SETTINGS, STEPS, at, finish, lay, losses, row, run_here, start, steps_of

spans = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)).map(lambda item: (item[0], item[0] + item[1])), max_size=5).map(merged)


@given(spans)
def test_batches_are_those_that_are_not_left_out_in_order(left_out: list[tuple[int, int]]) -> None:
    wanted = [number for number in range(200) if not any(first <= number < end for first, end in left_out)]
    found = [batch_number(step, left_out) for step in range(len(wanted))]
    assert found == wanted
    for step, number in enumerate(wanted):
        assert step_of(number, left_out) == step


def test_a_loss_that_is_no_number_is_laid_to_its_batch_and_a_spike_to_the_last_ones() -> None:
    assert blamed(70, "not_finite", 2) == (70, 71)
    assert blamed(70, "spike", 0) == (71 - SPIKE_BATCHES, 71)
    assert blamed(70, "spike", 1) == (71 - 2 * SPIKE_BATCHES, 71)
    assert blamed(5, "spike", 0) == (0, 6)


def test_the_watch_agrees_with_the_sweeps() -> None:
    """The same series trips both at the same step."""
    from planner.train.checkpoint import LoopState
    from planner.train.segment import Diverged, _watch
    from tests.train.full.runs import RECIPE

    class Segment:
        stage = "general"

    series = [4.0, 3.5, 3.6, 3.4, *[3.4 + 0.4 * k for k in range(60)]]
    loop, watch = LoopState(), Watch(RECIPE.spike_factor)
    for step, loss in enumerate(series):
        trouble = watch.see(loss, 1.0)
        try:
            _watch(loss, loop, RECIPE, Segment(), step)  # type: ignore[arg-type]
        except Diverged:
            assert trouble == "spike"
            break
        assert trouble is None and (watch.smooth, watch.best) == (loop.loss_smooth, loop.loss_smooth_best)
    else:
        raise AssertionError("neither noticed")


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.nan), (3.0, math.inf)])
def test_what_is_no_number_is_noticed_and_leaves_the_average_alone(loss: float, norm: float) -> None:
    watch = Watch(1.6, 3.0, 2.9)
    assert watch.see(loss, norm) == "not_finite" and (watch.smooth, watch.best) == (3.0, 2.9)


def test_a_batch_without_targets_leaves_the_average_alone() -> None:
    watch = Watch(1.6)
    assert [watch.see(loss, 1.0) for loss in (None, 4.0, None, None, 3.9)] == [None] * 5
    plain = Watch(1.6)
    assert [plain.see(loss, 1.0) for loss in (4.0, 3.9)] == [None] * 2 and watch == plain
    assert watch.see(None, math.nan) == "not_finite"


def rollbacks(folder: Path) -> list[dict[str, object]]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "event" and line["what"] == "rollback"]


NAN = [[0, 23, "nan"], [1, 5, "nan"]]


@pytest.mark.slow
def test_a_run_goes_on_without_the_batches_that_gave_no_number(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two ranks and on one: the same decision, and the same losses after it."""
    two = tmp_path / "two"
    lay(two, corpus, ranks=2)
    process = start(two, {"factors": NAN})
    install({"factors": NAN}, monkeypatch.setattr)
    one = tmp_path / "one"
    lay(one, corpus)
    assert run_here(one)
    finish(two, process)
    for folder in (one, two):
        assert [(line["to"], line["left_out"], line["stage"]) for line in rollbacks(folder)] == [(20, [23, 24], "general"), (40, [5, 6], "special")]
        batches = [steps_of(folder)[step + 1]["batch"] for step in range(STEPS)]
        assert batches == [*(n for n in range(GENERAL + 1) if n != 23), *(n for n in range(STEPS - GENERAL + 1) if n != 5)]
        assert row(folder)["status"] == "ok"
    assert max(abs(a - b) for a, b in zip(losses(one), losses(two), strict=True)) < 1e-5
    # The steps before the fault are those of a run without it: the weights that it spoilt are gone.
    monkeypatch.undo()
    clean = tmp_path / "clean"
    lay(clean, corpus)
    assert not run_here(clean, stop_at=23)
    assert [steps_of(clean)[step]["loss"] for step in range(1, 24)] == losses(one)[:23]


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [30.0, 1e-9], ids=["by steps", "by the clock too"])
def test_a_spike_takes_the_run_back_before_it(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    folder = tmp_path / "run"
    install({"factors": [[0, 33, 40.0]]}, monkeypatch.setattr)
    lay(folder, corpus, settings=replace(SETTINGS, keep=4, save_minutes=minutes))
    assert run_here(folder)
    (back,) = rollbacks(folder)
    assert back["to"] == 10 and back["left_out"] == [34 - SPIKE_BATCHES, 34] and "1.6 times its best" in str(back["reason"])
    assert max(losses(folder)) < 7  # no loss of the spike is left in the record


def test_curves_elsewhere_are_those_of_the_steps_that_count(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rollback TensorBoard shows each step once, and Weights & Biases, whose own steps only grow, is told those that are trained again."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told: list[dict[str, float]] = []
    axes: list[tuple[str, str | None]] = []

    class Run:
        latest = 0

        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            axes.append((name, step_metric))

        def log(self, values: dict[str, float], step: int | None = None) -> None:
            if step is None or step >= self.latest:  # wandb ignores others
                told.append(values)
                self.latest = max(self.latest, step or 0)

        def finish(self) -> None: ...

    asked: dict[str, object] = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(__spec__=ModuleSpec("wandb", None), init=lambda **options: asked.update(options) or Run()))
    monkeypatch.setenv("WANDB_API_KEY", "kept-out")
    install({"factors": [[0, 33, 40.0]]}, monkeypatch.setattr)
    folder = tmp_path / "run"
    lay(folder, corpus, settings=replace(SETTINGS, keep=4, tensorboard=True, wandb="mine"))
    assert run_here(folder) and [line["to"] for line in rollbacks(folder)] == [10]
    count = {step: line["loss"] for step, line in steps_of(folder).items() if step % 10 == 0}
    drawn = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("step/loss")
    assert [point.step for point in drawn] == list(count) and [point.value for point in drawn] == pytest.approx(list(count.values()))
    assert ("*", "steps") in axes and {line["steps"]: line["step/loss"] for line in told if "step/loss" in line} == count
    assert asked["project"] == "mine" and "kept-out" not in str(asked)


def test_a_spike_that_no_state_is_old_enough_for_leaves_out_only_what_follows_the_oldest(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    install({"factors": [[0, 33, 40.0]]}, monkeypatch.setattr)
    lay(folder, corpus, settings=replace(SETTINGS, keep=2, save_every=5))
    assert run_here(folder)
    (back,) = rollbacks(folder)
    assert back["to"] in (25, 30) and back["left_out"] == [back["to"], 34]
    assert len(losses(folder)) == STEPS


def test_a_state_that_is_bad_itself_is_left_for_an_older_one(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, load = tmp_path / "run", Training._load

    def spoilt(self: Training, step: int) -> None:
        load(self, step)
        if step == 20:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))

    install({"factors": [[0, 23, "nan"]]}, monkeypatch.setattr)
    monkeypatch.setattr(Training, "_load", spoilt)
    lay(folder, corpus)
    assert run_here(folder)
    assert [line["to"] for line in rollbacks(folder)] == [20, 10] and row(folder)["status"] == "ok"


def test_two_bad_batches_after_one_state_do_not_make_it_a_bad_one(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install({"factors": [[0, 23, "nan"], [0, 26, "nan"], [1, 3, "nan"], [1, 6, "nan"]]}, monkeypatch.setattr)
    lay(tmp_path / "run", corpus, settings=replace(SETTINGS, most_rollbacks=4))
    assert run_here(tmp_path / "run")
    assert [line["to"] for line in rollbacks(tmp_path / "run")] == [20, 20, 40, 40] and row(tmp_path / "run")["status"] == "ok"


def test_a_run_that_keeps_going_wrong_is_given_up_as_diverged(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    install({"factors": [[0, number, "nan"] for number in range(12, 40)]}, monkeypatch.setattr)
    lay(folder, corpus, settings=replace(SETTINGS, most_rollbacks=2))
    assert run_here(folder)
    found = row(folder)
    assert found["status"] == "diverged" and found["loss_spec"] is None
    assert "nan at step 13 of the general stage, after 2 rollbacks" in found["reason"]
    assert len(rollbacks(folder)) == 2


def test_a_gradient_that_is_no_number_is_named_as_such(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Training._step

    def spoilt(self: Training, stage: int, number: int, rate: float) -> tuple[float | None, float, bool, bool]:
        loss, norm, *asked = step(self, stage, number, rate)
        return loss, math.nan if number == 2 else norm, *asked

    monkeypatch.setattr(Training, "_step", spoilt)
    lay(tmp_path / "run", corpus, settings=replace(SETTINGS, most_rollbacks=0))
    assert run_here(tmp_path / "run")
    assert row(tmp_path / "run")["reason"] == "the gradient's norm is nan at step 3 of the general stage, after 0 rollbacks"


def test_what_is_left_out_outlives_a_stop(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    install({"factors": NAN[:1]}, monkeypatch.setattr)
    lay(folder, corpus)
    assert not run_here(folder, stop_at=22)  # stopped before the fault
    assert not run_here(folder, stop_at=27)
    monkeypatch.undo()
    assert run_here(folder)
    assert 23 not in [line["batch"] for line in steps_of(folder).values() if line["stage"] == "general"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the trainer catches it."""


@pytest.fixture(scope="module")
def spiked(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped at step 27, then met a spike, and was left to roll back."""
    folder = tmp_path_factory.mktemp("spiked") / "run"
    with pytest.MonkeyPatch.context() as patch:
        install(SPIKE, patch.setattr)
        lay(folder, corpus, settings=replace(SETTINGS, keep=4))
        assert not run_here(folder, stop_at=27) and run_here(folder)
    return folder


SPIKE = {"factors": [[0, 33, 40.0]]}
CUTS = [(States, "drop_after"), (States, "_delete_after"), (Guarded, "save"), (Metrics, "rewind")]
"""What a rollback calls, in turn; each is where it may be killed."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("kind", "name"), CUTS, ids=[name for _, name in CUTS])
def test_a_run_that_is_killed_within_a_rollback_goes_on_as_if_it_had_not_been(
    spiked: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, name: str
) -> None:
    folder = tmp_path / "run"
    install(SPIKE, monkeypatch.setattr)
    lay(folder, corpus, settings=replace(SETTINGS, keep=4))
    assert not run_here(folder, stop_at=27)
    whole, metrics = getattr(kind, name), folder / "metrics.jsonl"

    def killed(*arguments: object, **options: object) -> object:
        if at(folder) < 33:  # opening the states and the metrics calls some of them too
            return whole(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(kind, name, killed)
        run_here(folder)
    assert at(folder) == 33 and metrics.exists()
    if name != "drop_after":  # the states after the one that it goes back to are gone, or go now
        assert not run_here(folder, stop_at=12)
        assert sorted(path.name for path in (folder / "states").glob("step-*")) == ["step-000000010", "step-000000012"]
    assert run_here(folder)
    assert losses(folder) == losses(spiked)
    assert [line["batch"] for line in steps_of(folder).values()] == [line["batch"] for line in steps_of(spiked).values()]

@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the metrics of a run that died are not closed
def test_a_state_is_saved_before_its_loss_is_measured(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that cannot be done, for want of memory say, must not cost the steps before it at every restart."""
    from planner.train.full import loop

    asked: list[int | None] = []
    measure = loop.domain_loss

    def watched(*arguments: object, most_rows: int | None, **options: object) -> tuple[float, int]:
        asked.append(most_rows)
        return measure(*arguments, most_rows=most_rows, **options)  # type: ignore[arg-type]

    def no_room(*_: object, **__: object) -> tuple[float, int]:
        raise MemoryError("no room")

    for name in ("whole", "cut"):
        lay(tmp_path / name, corpus, settings=replace(SETTINGS, micro_batch=2))
        run = FullRun.load(tmp_path / name)
        replace(run, settings=replace(run.settings, evaluate_at=(20, 30))).save(tmp_path / name)
    monkeypatch.setattr(loop, "domain_loss", no_room)
    with pytest.raises(MemoryError):
        run_here(tmp_path / "cut")
    assert latest_step(tmp_path / "cut") == 20
    monkeypatch.setattr(loop, "domain_loss", watched)
    assert not run_here(tmp_path / "cut", stop_at=30), "stopped where a loss is due, it is measured afterwards"
    for name in ("cut", "whole"):
        assert run_here(tmp_path / name)
    lines = [[line for line in read_metrics(tmp_path / name / "metrics.jsonl") if line["kind"] == "evaluation"] for name in ("whole", "cut")]
    assert [line["step"] for line in lines[0]] == [20, 30] and lines[0] == lines[1]
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut") and row(tmp_path / "whole")["loss_spec"] == row(tmp_path / "cut")["loss_spec"]
    assert set(asked) == {2}, "no more rows than a micro-batch has"
