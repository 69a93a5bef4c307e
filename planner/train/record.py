"""The record of an endpoint: one file per run, from which the runs table is compiled. Imports no torch."""

from __future__ import annotations

from typing import Any

from planner.artifacts import write_artifact
from planner.corpus import Corpus
from planner.design.cells import Part
from planner.design.segment import Segment
from planner.recipe import Recipe
from planner.runs import RECORD_VERSION
from planner.train.job import Job
from planner.train.order import mixed_in


def write_record(job: Job, seconds: float | None, losses: dict[str, float], *, status: str, reason: str | None) -> None:
    """Write an endpoint's record atomically.

    Args:
        job: the tip.
        seconds: wall time of the whole path, or None where it never ran.
        losses: loss_spec, loss_general [nats/token], bpb_spec, bpb_general; empty after a divergence.
        status: "ok" or "diverged".
        reason: why it diverged.
    """
    write_artifact(job.record_path, "run", RECORD_VERSION, record_body(job, seconds, losses, status=status, reason=reason))


def tokens_seen(segment: Segment, recipe: Recipe) -> tuple[int, int, int]:
    """Count a run's tokens up to the end of a segment: general ones of the general stage, specialist ones of both stages, and replayed general ones."""
    per_step, batch = recipe.tokens_per_step, recipe.batch_sequences
    steps_pt, steps_spec = segment.steps_by_stage
    early = mixed_in(steps_pt * batch, segment.early_fraction) * recipe.seq_len
    replayed = mixed_in(steps_spec * batch, segment.replay_fraction) * recipe.seq_len
    return steps_pt * per_step - early, early + steps_spec * per_step - replayed, replayed


def record_body(job: Job, seconds: float | None, losses: dict[str, float], *, status: str, reason: str | None) -> dict[str, Any]:
    """Build the record of an endpoint: one row of the runs table, and the wall time beside it."""
    segment, recipe = job.segment, job.recipe
    special = segment.stage == "special"
    steps_pt, steps_spec = segment.steps_by_stage
    tokens_pt, tokens_spec, replayed = tokens_seen(segment, recipe)
    corpus = Corpus.open(job.corpus)
    unique = None
    if segment.unique_spec:
        parts = job.mixture or (Part(job.domain, 1.0, segment.unique_spec),)
        unique = sum(corpus.subset(part.domain, part.unique_spec).size for part in parts)
    fresh = "mixed" if tokens_spec and not special else "zero_shot" if not special else "stable" if segment.steps_pt else "scratch"
    row = {
        "run_id": segment.segment_id,
        "trunk_id": segment.segment_id.split("-pt" if segment.steps_pt or segment.base or not special else "-sp")[0],
        "branch_kind": "annealed" if segment.base else fresh,
        "family": segment.shape.family,
        "seed": segment.seed,
        "params_non_embedding": segment.shape.params_non_embedding,
        "params_embedding": segment.shape.params_embedding,
        "params_total": segment.shape.params_total,
        "vocab_size": segment.shape.vocab,
        "tokens_pt": tokens_pt,
        "tokens_spec": tokens_spec,
        "unique_spec": unique,
        "epochs_spec": tokens_spec / unique if unique else None,
        "replay_fraction": segment.replay_fraction,
        "early_fraction": segment.early_fraction,
        "steps_pt": steps_pt,
        "steps_spec": steps_spec,
        "loss_spec": losses.get("loss_spec"),
        "loss_general": losses.get("loss_general"),
        "bpb_spec": losses.get("bpb_spec"),
        "bpb_general": losses.get("bpb_general"),
        "flops": job.flops_run,
        "flops_6nd": 6.0 * segment.shape.params_non_embedding * (tokens_pt + tokens_spec + replayed),
        "learning_rate": segment.learning_rate,
        "status": status,
        "flags": "",
        "reason": reason,
        "recipe": recipe.fingerprint,
        "corpus": job.labels["corpus"],
        "sweep": job.labels["sweep"],
        "method": segment.method,
        "base": job.labels.get("base", ""),
        "base_tokens": job.labels.get("base_tokens"),
    }
    by_domain = {part.domain: losses[f"loss_{part.domain}"] for part in job.mixture if losses}
    mix = {"loss_by_domain": by_domain} if by_domain else {}
    return {**mix, "row": row, "shape": segment.shape.to_dict(), "recipe": recipe.to_dict(), "eval_tokens": job.eval_tokens, "wall_seconds": seconds}
