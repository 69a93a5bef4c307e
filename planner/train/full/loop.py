"""The training loop of a full-size run, on one rank or many, with the same batches and, up to rounding, the same losses.

On one rank without micro-batches it equals `planner.train.segment` to the bit.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from planner.artifacts import read_json, whole, write_text
from planner.corpus import Corpus
from planner.errors import StateError
from planner.train.checkpoint import LoopState, save_tensors, tensors_of
from planner.train.evaluate import domain_loss
from planner.train.full.forecast_curve import ForecastCurve, judge
from planner.train.full.guards import Span, Watch, batch_number, blamed, merged, step_of
from planner.train.full.mesh import Ranks
from planner.train.full.metrics import FILE, Metrics, read_metrics
from planner.train.full.plan import STATES_FOLDER, FullRun, latest_step, rows_of_rank, state_folder
from planner.train.full.shard import build, gathered
from planner.train.full.states import States, read_state, start_moments
from planner.train.job import Job
from planner.train.model import build_optimiser
from planner.train.order import IGNORED
from planner.train.rows import logits_at_once
from planner.train.segment import Diverged, open_batches, rate_at


@dataclass
class Guarded:
    """Rollbacks so far; kept beside the states, since a rollback must not undo them."""

    rollbacks: int = 0
    left_out: dict[int, list[Span]] = field(default_factory=dict)
    """Batches that are skipped, by stage."""

    def save(self, folder: Path) -> None:
        """Write it, before the run goes on without those batches."""
        write_text(folder / STATES_FOLDER / "guards.json", json.dumps({"rollbacks": self.rollbacks, "left_out": self.left_out}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Guarded:
        """Read it.

        Raises:
            InputError: it is torn.
        """
        path = folder / STATES_FOLDER / "guards.json"
        if not path.exists():
            return cls()
        body = read_json(path)
        with whole(path):
            return cls(int(body["rollbacks"]), {int(key): [(first, end) for first, end in spans] for key, spans in body["left_out"].items()})


class Training:
    """A run on this rank."""

    def __init__(self, run: FullRun, folder: Path, ranks: Ranks, *, stop: Callable[[], bool]) -> None:
        """Build the model and read the latest state, if there is one.

        Args:
            run: what to train.
            folder: the launch folder.
            ranks: all ranks of the run.
            stop: called after every step; True on one rank stops all.

        Raises:
            InputError: see `open_corpus`.
            StateError: the corpus is not the plan's, or a state cannot be written or read.
        """
        self.run, self.folder, self.ranks, self._stop = run, folder, ranks, stop
        self.rows = rows_of_rank(run.recipe.batch_sequences, ranks.rank, ranks.world)
        self.corpus = open_corpus(run.last)
        self.batches = [open_batches(job, self.corpus) for job in run.stages]
        self.states = States(folder, ranks, run.settings.keep, run.forks)
        self.guarded: Guarded = ranks.told(Guarded.load(folder) if ranks.first else None)
        self.watch = Watch(run.recipe.spike_factor)
        self.step, self.seconds, self._saved = 0, 0.0, time.monotonic()
        self._back = -1  # the step of the state that the last rollback went to
        found = ranks.told(self.states.steps() if ranks.first else None)
        stage = run.model_of(found[-1] if found else 0)
        under = run.stages[stage].frozen_state
        if found and under is not None and ranks.told(not under.exists() if ranks.first else None):
            what = f"{under} is gone, and the adapters in {folder / STATES_FOLDER} were trained on it"
            raise StateError(what, remedy=f"delete {folder / STATES_FOLDER}; the same command then trains the run again")
        # A state overwrites all that is trained; initialising a large model first would take hours.
        self._open(stage, drawn=not found and run.trunk is None)
        if found:
            self._load(found[-1])
        else:
            if run.trunk is not None:
                self._branch(run.trunk)
            self._save(wait=True)  # a rollback may have to go back to the very beginning
        self.metrics = Metrics(folder, run.settings, run.last.segment.segment_id, resumed_at=self.step) if ranks.first else None
        self.course = ForecastCurve.load(folder) if ranks.first else None

    def _open(self, stage: int, *, drawn: bool = True) -> None:
        """Build the model trained from a stage on, and its optimiser; uninitialised only without adapters, since states hold trained parameters."""
        job = self.run.stages[stage]
        self.began_at = self.run.offsets[stage]
        self.model = build(job, self.corpus, self.ranks, self.run.settings, drawn=drawn or job.segment.method != "full")
        self.model.train()
        self.trained = [item for item in self.model.parameters() if item.requires_grad]
        self.optimiser = build_optimiser(self.model, self.run.recipe, job.segment.learning_rate)
        start_moments(self.optimiser)

    def _branch(self, trunk: str) -> None:
        """Start from the trunk's state at the branch point, and take over the trunk's rollbacks: their batches stay skipped.

        Raises:
            StateError: the trunk has not ended, or its state cannot be read.
        """
        folder = self.folder.parent / trunk
        done, steps, guarded = self.ranks.told((latest_step(folder), FullRun.load(folder).steps, Guarded.load(folder)) if self.ranks.first else None)
        if done < steps:
            what = f"the trunk in {folder} has done {max(0, done)} of {steps} steps"
            raise StateError(what, remedy="train it first: the branches go on from its states")
        self.guarded = guarded
        if self.ranks.first and guarded.left_out:
            guarded.save(self.folder)
        remedy = f"delete {folder / STATES_FOLDER} to train the trunk again; branches that have begun go on from their own states"
        path = state_folder(folder, self.run.begins_at)
        self._take(read_state(path, self.ranks, tensors_of(self.model, self.optimiser), remedy=remedy))
        self._follow()

    def _follow(self) -> bool:
        """Put adapters on the trunk if the next step is the first with them; return whether it is.

        The trunk's weights go into a file of their own for later starts: from here on states hold the adapters only.
        """
        stage = self.run.model_of(self.step)
        if self.run.offsets[stage] == self.began_at:
            return False
        weights, trunk = gathered(self.model, self.ranks), self.run.stages[stage].frozen_state
        assert trunk is not None
        if self.ranks.first:
            save_tensors(trunk, weights, LoopState(optimiser_steps=self.step - self.began_at, seconds=self.seconds))
        del self.model, self.trained, self.optimiser, weights  # two models at once would not fit
        self._open(stage)
        return True

    def go(self) -> bool:
        """Train to the end, or until asked to stop; return whether the end was reached.

        Raises:
            Diverged: the guards gave up.
            StateError: a state cannot be written or read.
        """
        per_token = [self.run.recipe.method(job.segment.method).flops_per_token(job.segment.shape, self.run.recipe.seq_len) for job in self.run.stages]
        due, save_every = set(self.run.settings.evaluate_at), self.run.settings.save_every
        if self.step in due and not self.ranks.told(self._evaluated() if self.ranks.first else None):
            self._evaluate()  # the run stopped or was killed after this state was saved and before it was evaluated
        while self.step < self.run.steps:
            began = time.perf_counter()
            stage, within = self.run.at(self.step)
            if within == 0:
                self.watch.begin_stage()
            number = batch_number(within, self.guarded.left_out.get(stage, []))
            rate = rate_at(self.run.stages[stage].segment, self.run.recipe, within)
            loss, norm, asked, late = self._step(stage, number, rate)
            trouble = self.watch.see(loss, norm)
            if trouble is not None:
                self._roll_back(stage, within, number, trouble, loss, norm)
                continue
            self.step += 1
            took = time.perf_counter() - began
            self.seconds += took
            speed = self.run.recipe.tokens_per_step / took
            peak = self.run.settings.peak_flops
            self._write(
                "step", stage=self.run.stages[stage].segment.stage, batch=number, loss=loss, loss_smooth=self.watch.smooth, learning_rate=rate,
                grad_norm=norm, tokens=self.step * self.run.recipe.tokens_per_step, tokens_per_second=speed,
                mfu=None if peak is None else speed * per_token[stage] / (peak * self.ranks.world),
                seconds=self.seconds,
            )  # fmt: skip
            follows = self._follow()
            usual = asked or follows or self.step % save_every == 0 or self.step == self.run.steps
            if usual or late or self.step in self.run.forks:  # those at forks are extra, so that rollbacks reach as far back as without them
                # Before the evaluation, so that its failure costs no steps.
                self._save(wait=asked or follows or self.step == self.run.steps or self.step in due, between=not usual)
            if self.step in due and not asked:  # if asked to stop, it evaluates when the run is resumed
                self._evaluate()
            self.states.poll()
            if asked:
                self._write("event", what="stopped", reason="asked to stop; the same command continues from here")
                return False
        return True

    def close(self) -> None:
        """Wait on every rank until all is written: the first rank to exit would have the others killed."""
        self.states.finish()
        self.ranks.told(None)
        if self.metrics is not None:
            self.metrics.close()

    def _step(self, stage: int, number: int, rate: float) -> tuple[float | None, float, bool, bool]:
        """Take an optimiser step on a batch.

        Returns:
            Its loss over all ranks, None where no target counts; the gradient's norm; whether any rank was asked to stop; whether a state is due by
            the first rank's clock.
        """
        recipe, world = self.run.recipe, self.ranks.world
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        first = number * recipe.batch_sequences
        inputs, targets = (torch.from_numpy(part) for part in self.batches[stage].rows(first + self.rows[0], first + self.rows[1]))
        late = self.ranks.first and time.monotonic() - self._saved > 60 * self.run.settings.save_minutes
        count, asked, due = self.ranks.total(float((targets != IGNORED).sum()), float(self._stop()), float(late))
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        size = self.run.settings.micro_batch or len(inputs)
        for at in range(0, len(inputs), size):
            part, wanted = inputs[at : at + size].to(self.ranks.device), targets[at : at + size].to(self.ranks.device)
            loss = batch_loss(self.model, part, wanted) / max(count, 1.0)
            # FSDP takes the mean of the ranks' gradients; the loss is a sum over them.
            (loss if world == 1 else loss * world).backward()
            total += loss.detach()
        norm = torch.nn.utils.get_total_norm([item.grad for item in self.trained if item.grad is not None], foreach=True)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        torch.nn.utils.clip_grads_with_norm_(self.trained, recipe.clip_norm, norm, foreach=True)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        loss_step = self.ranks.total(float(total))[0]
        return loss_step if count else None, float(norm), asked > 0, due > 0

    def _evaluate(self) -> None:
        """Measure the held-out specialist loss after the last step and compare it with the forecast."""
        job, (stage, within) = self.run.last, self.run.at(self.step - 1)
        # Every rank evaluates the same windows: it is little work, and all gather the shards together.
        loss, _ = domain_loss(
            self.model, self.corpus, job.domain, self.run.recipe.seq_len, max_tokens=job.eval_tokens, device=self.ranks.device,
            most_rows=self.run.settings.micro_batch,
        )  # fmt: skip
        segment = self.run.stages[stage].segment
        share = rate_at(segment, self.run.recipe, within) / segment.learning_rate
        self._write("evaluation", loss_spec=loss, rate_share=share, tokens=self.step * self.run.recipe.tokens_per_step)
        # During warm-up the loss is neither at a constant rate nor in the cooldown, and says nothing about the end.
        if self.course is not None and self.metrics is not None and math.isfinite(loss) and not self._warming(self.step, share):
            # A loss that was not finite is null there, and is skipped.
            lines = [line for line in read_metrics(self.folder / FILE) if line["kind"] == "evaluation" and line["loss_spec"] is not None]
            told = [(line["step"], line["loss_spec"], line["rate_share"]) for line in lines]
            measured = [(step, value, rate) for step, value, rate in told if not self._warming(step, rate)]
            verdict = judge(self.course, measured, self.run.offsets[-2])
            if verdict is not None:
                self._write("event", what="forecast", outside=verdict.outside, reason=verdict.text)

    def _warming(self, step: int, share: float) -> bool:
        """Tell whether a rate below its peak, after a step of the run, belongs to the warm-up rather than the cooldown."""
        return share < 1 and step <= self.run.cooldown_from

    def _evaluated(self) -> bool:
        """Tell whether the loss after the last step is in the metrics already; only the first rank knows."""
        return any(line["kind"] == "evaluation" and line["step"] == self.step for line in read_metrics(self.folder / FILE))

    def _roll_back(self, stage: int, within: int, number: int, trouble: str, loss: float | None, norm: float) -> None:
        """Go back to before the blamed batches and skip them."""
        if trouble == "spike":
            what = f"the smoothed training loss is over {self.run.recipe.spike_factor:g} times its best"
        else:
            what = f"the gradient's norm is {norm}" if loss is None or math.isfinite(loss) else f"the training loss is {loss}"
        where = f"at step {within + 1} of the {self.run.stages[stage].segment.stage} stage"
        if self.guarded.rollbacks >= self.run.settings.most_rollbacks:
            self._write("event", what="diverged", reason=f"{what} {where}")
            raise Diverged(f"{what} {where}, after {self.guarded.rollbacks} rollbacks")
        spans = self.guarded.left_out.get(stage, [])
        span = blamed(number, trouble, self.guarded.rollbacks)
        self.states.finish()
        before = self.run.offsets[stage] + min(within, step_of(span[0], spans))
        target = self.ranks.told(self._state_before(before) if self.ranks.first else None)
        if target == self._back and self.step - target <= 1:  # trouble again as soon as it was read: the state itself is bad
            older = self.ranks.told(self._state_before(target - 1) if self.ranks.first else None)
            target = older if self.run.model_of(older) == self.run.model_of(target) else target
        self._back = target
        if target > self.run.offsets[stage]:  # no state is that old any more: batches trained on before it stay
            span = (max(span[0], batch_number(target - self.run.offsets[stage], spans)), span[1])
        # Delete states first: killed in between, the run meets the same trouble again. In the other order it would go on from batches recorded as skipped.
        self.states.drop_after(target)
        self.guarded.left_out[stage] = merged([*spans, span])
        self.guarded.rollbacks += 1
        if self.ranks.first:
            self.guarded.save(self.folder)
        self._write("event", what="rollback", to=target, left_out=list(span), stage=self.run.stages[stage].segment.stage, reason=f"{what} {where}")
        self._load(target)
        if self.metrics is not None:
            self.metrics.rewind(target)

    def _state_before(self, step: int) -> int:
        """Return the latest state at or before a step, or the oldest that there is."""
        steps = self.states.steps()
        return max((state for state in steps if state <= step), default=steps[0])

    def _save(self, *, wait: bool = False, between: bool = False) -> None:
        loop = {"step": self.step, "seconds": self.seconds, "smooth": self.watch.smooth, "best": self.watch.best}
        self.states.save(self.step, tensors_of(self.model, self.optimiser), loop, wait=wait, between=between)
        self._saved = time.monotonic()

    def _load(self, step: int) -> None:
        self._take(self.states.load(step, tensors_of(self.model, self.optimiser)))

    def _take(self, loop: dict[str, Any]) -> None:
        """Restore the loop's own numbers from a state whose tensors have been read."""
        self.step, self.seconds = loop["step"], loop["seconds"]
        start_moments(self.optimiser, self.step - self.began_at)
        self.optimiser.zero_grad(set_to_none=True)
        self.watch.smooth, self.watch.best = loop["smooth"], loop["best"]

    def _write(self, kind: str, **values: Any) -> None:
        if self.metrics is not None:
            self.metrics.write(kind, self.step, **values)


def open_corpus(job: Job) -> Corpus:
    """Open the corpus of a run, which may have changed on disk since the run was prepared or last stopped.

    Raises:
        InputError: it is missing, or its files do not have the lengths that corpus.json states.
        StateError: it is not the plan's corpus.
    """
    corpus, planned = Corpus.open(job.corpus), job.labels["corpus"]
    if corpus.fingerprint != planned:
        what = f"corpus {corpus.folder} has fingerprint {corpus.fingerprint}, but the run was begun on {planned}"
        raise StateError(what, remedy="restore it; a forecast holds for no other")
    corpus.check_shards(dict.fromkeys([corpus.general, job.domain, *(part.domain for part in job.mixture)]))
    return corpus


def batch_loss(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed loss of the targets that count, in chunks of tokens if all logits at once would take too much memory."""
    known: Any = model
    wanted, tokens = targets.reshape(-1), logits_at_once(known.config.model_type, known.config.vocab_size)
    if tokens is None or len(wanted) <= tokens:
        return _summed(model(input_ids=inputs).logits, wanted)
    head = known.get_output_embeddings()
    # Inside the head's own call: FSDP keeps its weights gathered only during the model's call, and until its backward pass is over.
    head.forward = functools.partial(_loss_in_parts, head.forward, wanted, tokens)
    try:
        loss: torch.Tensor = model(input_ids=inputs).logits
        return loss
    finally:
        del head.forward  # makes the class's own forward visible again


def _loss_in_parts(head: Callable[[torch.Tensor], torch.Tensor], wanted: torch.Tensor, tokens: int, hidden: torch.Tensor) -> torch.Tensor:
    """Return the summed loss, chunk by chunk; a chunk's logits are freed, and computed again in the backward pass."""

    def part_loss(part: torch.Tensor, its: torch.Tensor) -> torch.Tensor:
        return _summed(head(part), its)

    parts = zip(hidden.flatten(0, -2).split(tokens), wanted.split(tokens), strict=True)
    return torch.stack([checkpoint(part_loss, *both, use_reentrant=False, preserve_rng_state=False) for both in parts]).sum()


def _summed(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), wanted, reduction="sum", ignore_index=IGNORED)
