"""Train one segment: load the parent's state, step, then save a state or evaluate and record the endpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from planner.artifacts import write_artifact
from planner.corpus import Corpus
from planner.design.segment import Segment
from planner.recipe import Recipe
from planner.train.checkpoint import LoopState, load_state, read_loop, save_state
from planner.train.evaluate import domain_loss
from planner.train.gpus import check_device
from planner.train.job import Job, Result
from planner.train.loss import Loss, loss_function
from planner.train.matmul import placed
from planner.train.micro_batch import GPU_SHARE, micro_batch_size
from planner.train.model import build_optimiser
from planner.train.order import IGNORED, Batches, Mix, Stream, mixed_in
from planner.train.record import write_record
from planner.train.start import start_model

SMOOTHING = 0.95
"""Decay of the smoothed training loss, in which spikes stand out from noise."""
REPORT_EVERY = 20
"""Steps between two calls of `report`."""


class Diverged(Exception):
    """A loss was not finite, or spiked past the recipe's bound."""


def rate_at(segment: Segment, recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step of the segment's stage, counted from 0.

    Linear warm-up, constant, then 1−sqrt to zero (arXiv 2405.18392).
    """
    rate = segment.learning_rate
    warmup = recipe.rewarm_steps if segment.rewarms else recipe.warmup_steps
    if segment.warmup and step < warmup:
        rate *= (step + 1) / warmup
    if segment.cooldown_from is not None and step >= segment.cooldown_from:
        assert segment.cooldown_to is not None
        rate *= 1 - math.sqrt((step - segment.cooldown_from) / (segment.cooldown_to - segment.cooldown_from))
    return rate


def open_batches(job: Job, corpus: Corpus) -> Batches:
    """Open the batches of the job's stage."""
    segment, recipe = job.segment, job.recipe
    batch, early = recipe.batch_sequences, segment.early_fraction
    general = _stream(job, corpus, corpus.general, corpus.tokens(corpus.general, "train"))
    special: Stream | Mix | None = None
    if job.mixture:
        special = Mix([(_stream(job, corpus, part.domain, corpus.subset(part.domain, part.unique_spec)), part.share) for part in job.mixture])
    elif segment.unique_spec is not None:
        special = _stream(job, corpus, job.domain, corpus.subset(job.domain, segment.unique_spec))
    if segment.stage == "general":
        return Batches(general, batch, other=special if early else None, other_share=early)
    assert special is not None
    trunk = segment.steps_pt * batch
    return Batches(
        special, batch, other=general if segment.replay_fraction else None, other_share=segment.replay_fraction,
        main_offset=mixed_in(trunk, early), other_offset=trunk - mixed_in(trunk, early),
    )  # fmt: skip


def _stream(job: Job, corpus: Corpus, domain: str, tokens: NDArray[np.unsignedinteger]) -> Stream:
    mask = corpus.mask(domain, "train")
    offsets = None if mask is None else corpus.offsets(domain, "train")
    return Stream(tokens, job.recipe.seq_len, job.segment.seed, domain, mask=mask, offsets=offsets)


def run_segment(job: Job, *, report: Callable[[int], None] | None = None) -> Result:
    """Train a segment and leave its state or its record on disk.

    Args:
        job: what to do.
        report: called with the steps done every few steps; what it raises stops the segment and leaves nothing behind.

    Returns:
        The outcome; a divergence is an outcome, not an error.

    Raises:
        StateError: the parent's state cannot be read.
    """
    started = time.perf_counter()
    segment, recipe = job.segment, job.recipe
    torch.set_num_threads(job.threads)
    check_device(job.device)
    device = torch.device(job.device)
    corpus = Corpus.open(job.corpus)
    batches = open_batches(job, corpus)
    model = placed(start_model(job, corpus), device)
    optimiser = build_optimiser(model, recipe, segment.learning_rate)
    loop = LoopState()
    if segment.starts_adapters:
        if job.frozen_state is not None:
            loop.seconds = read_loop(job.frozen_state).seconds
    elif segment.parent_id is not None:
        assert job.parent_state is not None
        loop = load_state(job.parent_state, model, optimiser)
    if segment.first_step == 0:
        loop.loss_smooth = loop.loss_smooth_best = None  # other text: a jump in loss is no spike
    try:
        _train(job, batches, model, optimiser, loop, device, report)
        losses = evaluate(job, corpus, model, device) if segment.cell is not None else {}
    except Diverged as error:
        loop.seconds += time.perf_counter() - started
        if segment.cell is not None:
            write_record(job, loop.seconds, {}, status="diverged", reason=str(error))
        else:
            write_artifact(job.diverged_path, "diverged", 1, {"reason": str(error)})
        return Result("diverged", time.perf_counter() - started, str(error))
    loop.seconds += time.perf_counter() - started
    if segment.cell is None or job.labels.get("keep_state"):
        save_state(job.state_path, model, optimiser, loop)
    if segment.cell is not None:
        write_record(job, loop.seconds, losses, status="ok", reason=None)
    return Result("done", time.perf_counter() - started)


def _train(
    job: Job,
    batches: Batches,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    loop: LoopState,
    device: torch.device,
    report: Callable[[int], None] | None,
) -> None:
    segment, recipe = job.segment, job.recipe
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss_of, rows = loss_function(job.compiled), _rows(job, device)
    model.train()
    for step in range(segment.first_step, segment.last_step):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(segment, recipe, step)
        inputs, targets = batches.step(step)
        loss = backward(loss_of, model, inputs, targets, device, rows)
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loop.optimiser_steps += 1
        if (targets != IGNORED).any():  # a batch of prompts alone has no loss to average
            _watch(loss.item(), loop, recipe, segment, step)
        if report is not None and (step + 1 - segment.first_step) % REPORT_EVERY == 0:
            report(step + 1 - segment.first_step)


def backward(
    loss_of: Loss, model: torch.nn.Module, inputs: NDArray[np.int64], targets: NDArray[np.int64], device: torch.device, rows: int
) -> torch.Tensor:  # fmt: skip
    """Accumulate the gradients of a batch over passes of `rows` sequences; return its mean loss over all targets that count."""
    counts = targets != IGNORED
    whole, counted = bool(counts.all()), max(1, int(counts.sum()))
    total: torch.Tensor | None = None
    for first in range(0, len(inputs), rows):
        given, wanted = (torch.from_numpy(part[first : first + rows]).to(device, non_blocking=True) for part in (inputs, targets))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(model, given, wanted, whole)
        if rows < len(inputs):  # weight each pass's mean by its targets; a single pass stays as it is, to the last bit
            loss = loss * (int(counts[first : first + rows].sum()) / counted)
        loss.backward()  # type: ignore[no-untyped-call]
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    return total


def _rows(job: Job, device: torch.device) -> int:
    """Return the sequences per pass that fit the memory that the job may use."""
    memory = job.gpu_memory
    if device.type == "cuda" and memory is None:
        memory = GPU_SHARE * torch.cuda.mem_get_info()[1] / job.gpu_sharers
    return micro_batch_size(job.segment.shape, job.recipe, method=job.segment.method, device=device.type, memory=memory)


def smoothed(loss: float, smooth: float | None, best: float | None) -> tuple[float, float]:
    """Update the smoothed loss with a step's loss; return it and its lowest value so far."""
    smooth = loss if smooth is None else SMOOTHING * smooth + (1 - SMOOTHING) * loss
    return smooth, smooth if best is None else min(smooth, best)


def _watch(loss: float, loop: LoopState, recipe: Recipe, segment: Segment, step: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the training loss is {loss} at step {step + 1} of the {segment.stage} stage")
    smooth, best = smoothed(loss, loop.loss_smooth, loop.loss_smooth_best)
    loop.loss_smooth, loop.loss_smooth_best = smooth, best
    if smooth > recipe.spike_factor * best:
        raise Diverged(
            f"the smoothed training loss {smooth:.3g} is over {recipe.spike_factor:g} times its best {best:.3g} "
            f"at step {step + 1} of the {segment.stage} stage"
        )


def evaluate(job: Job, corpus: Corpus, model: torch.nn.Module, device: torch.device, most_rows: int | None = None) -> dict[str, float]:
    """Measure the held-out losses of the specialist and the general text, and of each part of a mixture by its name; bits per byte too.

    Args:
        job: what was trained.
        corpus: its corpus.
        model: the trained model.
        device: where it is.
        most_rows: see `domain_loss`.

    Raises:
        Diverged: one is not finite.
    """
    domains = {"spec": job.domain, "general": corpus.general, **{part.domain: part.domain for part in job.mixture}}
    found: dict[str, float] = {}
    for key, domain in domains.items():
        loss, _ = domain_loss(model, corpus, domain, job.recipe.seq_len, max_tokens=job.eval_tokens, device=device, most_rows=most_rows)
        if not math.isfinite(loss):
            raise Diverged(f"the held-out loss on {domain} is {loss}")
        found[f"loss_{key}"] = loss
        found[f"bpb_{key}"] = loss / math.log(2) / corpus.bytes_per_token(domain)
    return found
