"""What a launched run starts from: the plan of an allocation, and the open checkpoint where there is one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from planner.allocate.allocation import Allocation, Plan, check_plan
from planner.allocate.base_answer import KIND as BASES
from planner.allocate.base_answer import VERSION as BASES_VERSION
from planner.allocate.early import NAME as MIXED_IN
from planner.artifacts import check_numbers, read_artifact, read_json, whole
from planner.corpus import Corpus
from planner.design.tree import Tree
from planner.errors import InputError, PlannerWarning
from planner.method import Method
from planner.pretrained import Pretrained
from planner.recipe import Recipe
from planner.sweep import Sweep
from planner.units import format_count

NEAR = 0.05
"""Share by which a checkpoint's size may differ from that of the plan."""
FAR = 0.2
"""Share by which distinct text may differ from the sweep's unique_spec without a warning; the runs table has the realised amount."""
ONCE = 1.01
"""Passes over the general text that count as one."""
SCARCE = 50
"""Windows of distinct text below which there is a warning: windows then leave out more than a few per cent of it."""


@dataclass(frozen=True)
class Planned:
    """An allocation as a launch reads it."""

    allocation: Allocation
    sunk: float = 0.0
    """General tokens of the plan that are already in a checkpoint: they are not trained."""
    method: str = "full"
    """How it is trained."""
    adapters: tuple[int, tuple[str, ...]] | None = None
    """Rank and targets that the plan was counted with; None for those of the recipe."""
    arm: str | None = None
    """Which of the answer's other ways to spend the budget it is; None for the recommendation."""

    @property
    def early_fraction(self) -> float:
        """Share of specialist text in the general stage, if that is the only stage."""
        return self.allocation.plan.share_spec if self.arm == MIXED_IN else 0.0


def read_plan(path: Path, arm: str | None = None) -> Planned:
    """Read what `plan allocate` wrote: an allocation, or with --base the best of its choices.

    Args:
        path: the file.
        arm: one of the answer's other ways to spend the budget, or a part of its name; the recommendation by default.

    Raises:
        InputError: no such file, another kind of file, or no such arm.
    """
    if read_json(path).get("kind") != BASES:
        allocation = Allocation.load(path)
        planned = Planned(allocation, method=str(allocation.source.get("method", "full")))
        with whole(path):
            return planned if arm is None else _of_arm(planned, arm)
    if arm is not None:
        raise InputError(f"--arm {arm!r} is for plans with a fresh model, and that in {path} starts from a base", remedy="omit it")
    body = read_artifact(path, BASES, BASES_VERSION)
    with whole(path):
        choice = body["choices"][0]
        if choice["plan"]["tokens_spec"] == 0:
            raise InputError(f"the plan in {path} trains nothing: its base stays as it is", remedy="allocate with a looser limit, or more specialist text")
        check_plan(choice["plan"], "the base's plan")
        way = body["request"]["method"]
        plan, method = Plan(**choice["plan"]), Method(str(way["name"]), way["rank"], tuple(way["targets"]))
        one, size = (1.0, 1.0), (plan.params_non_embedding, plan.params_non_embedding)
        allocation = Allocation(
            body["request"], plan, plan, one, size, one, size, 0.0, 0.0, (), choice["extrapolation"], tuple(body["warnings"]), {}, body["source"],
            body["created"], general=choice.get("general"),
        )  # fmt: skip
        if allocation.general is not None:
            check_numbers(allocation.general, ("replay_fraction", "tokens_replayed"), low=0.0, what="the general loss")
    return Planned(allocation, allocation.tokens_trunk, method.name, (method.rank, method.targets) if method.name != "full" else None)


def _of_arm(planned: Planned, name: str) -> Planned:
    """Take another way to spend the budget instead of the recommendation, with its own forecast; for use inside `whole`."""
    allocation = planned.allocation
    arms = [arm for arm in (*allocation.arms, *allocation.alternatives) if arm.plan is not None]
    found = [arm for arm in arms if name == arm.name] or [arm for arm in arms if name and name in arm.name]
    if len(found) != 1 or found[0].plan is None:
        known = ", ".join(repr(arm.name) for arm in arms)
        said = "is part of several arms' names" if found else "matches no arm of the answer that has a plan"
        raise InputError(f"--arm {name!r} {said}", remedy=f"choose one of {known}" if known else "omit it")
    plan, general = found[0].plan, None
    check_plan(asdict(plan), f"the arm {found[0].name}")
    share = plan.tokens_spec / (plan.tokens_pt + plan.tokens_spec)
    if found[0].name == MIXED_IN and not (0 < share < 1 and math.isclose(plan.share_spec, share, rel_tol=1e-6)):
        raise ValueError(f"{plan.tokens_pt:g} and {plan.tokens_spec:g} tokens, a share of {plan.share_spec:g}, of the arm {MIXED_IN}")
    if plan.replay_fraction:
        replayed = plan.tokens_spec * plan.replay_fraction / (1 - plan.replay_fraction)
        general = {"replay_fraction": plan.replay_fraction, "tokens_replayed": replayed}
    return replace(planned, allocation=replace(allocation, plan=plan, general=general), arm=found[0].name)


def corpus_of(path: Path, source: Mapping[str, Any], corpus: Path | None) -> Corpus:
    """Open the corpus of a plan.

    Args:
        path: file of the plan; the corpus is named relative to it, so that a project folder can move as a whole.
        source: origin of its law.
        corpus: folder of the corpus, where it has moved.

    Raises:
        InputError: the law has no recipe, or the corpus is missing or not the sweep's.
    """
    if not source.get("recipe"):
        raise InputError(f"{path} comes from a table of runs without a recipe", remedy="launch it with the trainer that made those runs")
    with whole(path):
        check_numbers({"eval_tokens": None, **source}, ("eval_tokens",), low=1.0, optional=True, what="the source")
        for key, kind in (("recipe", dict), ("corpus_path", str)):
            if source.get(key) and not isinstance(source[key], kind):
                raise ValueError(f"{key} = {source[key]!r} of the source")
    where = corpus or (path.parent / source["corpus_path"] if source.get("corpus_path") else None)
    if where is None:
        raise InputError(f"{path} names no corpus", remedy="give --corpus")
    opened = Corpus.open(where)
    if opened.fingerprint != source.get("corpus"):
        raise InputError(
            f"corpus {where} has fingerprint {opened.fingerprint}, but the sweep was trained on {source.get('corpus')}",
            remedy="give the sweep's own corpus with --corpus; a forecast holds for no other",
        )
    return opened


def checkpoint_of(planned: Planned, path: Path, base: Path | None, recipe: Recipe, corpus: Corpus) -> Pretrained | None:
    """Open the checkpoint that a plan starts from, or None for a fresh model.

    Args:
        planned: the plan.
        path: its file, for messages.
        base: the checkpoint's folder, where one was given.
        recipe: of the run.
        corpus: to train on.

    Raises:
        InputError: a plan without a base that needs one, a base that the plan does not start from, or one of another size or tokenizer.
    """
    plan = planned.allocation.plan
    needed = planned.sunk > 0 or bool(planned.allocation.source.get("based")) or Method(planned.method).both
    if base is None:
        if needed:
            raise InputError(f"the plan in {path} starts from an open checkpoint", remedy="name its folder with --base")
        if plan.shape is not None and plan.model_shape.counted is not None:
            what = f"the plan in {path} has a shape of type {plan.model_shape.family}, of which no fresh model can be made"
            raise InputError(what, remedy="name its checkpoint's folder with --base")
        return None
    if not needed and plan.tokens_pt > 0:
        raise InputError(
            f"the plan in {path} trains {format_count(plan.tokens_pt)} general tokens from a fresh model, not from a base",
            remedy="omit --base, or plan with plan allocate --base",
        )
    found = Pretrained.open(base)
    miss = found.shape.params_non_embedding / plan.params_non_embedding - 1
    if abs(miss) > NEAR:
        sizes = [format_count(size, 4) for size in (found.shape.params_non_embedding, plan.params_non_embedding)]
        raise InputError(
            f"base {base} has {sizes[0]} non-embedding parameters, the plan {sizes[1]}",
            remedy="give the checkpoint that was planned with, or plan for this one, with plan allocate --base, or "
            f"--params {found.shape.params_non_embedding}",
        )
    found.check_corpus(corpus.tokenizer_path, corpus.vocab_size, recipe.seq_len)
    return found


def warn_of_cut_warmups(trees: Iterable[Tree]) -> None:
    """Warn where a general stage ends within its warm-up: the specialist stage has none of its own and begins at the peak rate."""
    found = {}
    for tree in trees:
        tip = tree.tips[0]
        warmup = tree.recipe.rewarm_steps if tip.rewarms else tree.recipe.warmup_steps
        if tip.stage == "special" and not tip.warmup and tip.steps_pt < warmup:
            found[tip.steps_pt] = warmup
    for steps, warmup in found.items():
        jump = f"the rate jumps from {steps / warmup:.2g} of its peak to the peak where the specialist stage begins"
        warnings.warn(f"the general stage ends after {steps} of {warmup} warm-up steps: {jump}", PlannerWarning, stacklevel=3)


def warn_of_scarce_text(runs: Iterable[Sweep]) -> None:
    """Warn of specialist text so short that what its windows leave out matters: less than a window in each pass, and its very end in all."""
    found: dict[tuple[str, int], int] = {}
    for run in runs:
        for unique in sorted({tip.unique_spec for tip in run.tree.tips if tip.unique_spec}):
            for domain, asked in [(part.domain, part.unique_spec) for part in run.spec.mixture] or [(run.domain, unique)]:
                try:
                    size, seq_len = run.corpus.subset_tokens(domain, asked), run.spec.recipe.seq_len
                except InputError:  # a plan needs no shards; missing ones are reported when it is to be trained
                    continue
                if size < SCARCE * seq_len:
                    found[domain, seq_len] = min(size, found.get((domain, seq_len), size))
    for (domain, seq_len), size in found.items():
        once = max(0, size - seq_len) // seq_len * seq_len
        lost = f"an epoch trains on {once} of {size} distinct tokens of {domain}, and no epoch on the last {size % seq_len}"
        what = f"{lost}: the text is short for seq_len = {seq_len}, so its distinct tokens are overstated and epochs understated"
        warnings.warn(f"{what}; give {SCARCE * seq_len} or more, or lower seq_len", PlannerWarning, stacklevel=3)


def repeated_general_text(runs: Iterable[Sweep]) -> str | None:
    """Return a warning if a run has more general tokens than its corpus: it repeats text, and laws treat general tokens as fresh ones."""
    passes, most, held = ONCE, 0.0, 0
    for run in runs:
        available = run.corpus.unique_tokens(run.corpus.general)
        for tip in run.tree.tips:
            trunk, stage = tip.steps_by_stage
            general = run.spec.recipe.tokens_per_step * (trunk * (1 - tip.early_fraction) + stage * tip.replay_fraction)
            if general > passes * available:
                passes, most, held = general / available, general, available
    if not held:
        return None
    what = f"up to {format_count(most)} general tokens are {passes:.2g} passes over the corpus's {format_count(held)}; laws treat them as fresh ones"
    return f"{what}: give more general text, or fewer general tokens (tokens_pt, --general-tokens)"


def warn_of_whole_documents(sweep: Sweep) -> None:
    """Warn where caps on distinct text are missed by far or become equal: text is taken in whole documents, and some are long."""
    found: dict[int, list[float]] = {}
    for cap in sorted({tip.unique_spec for tip in sweep.tree.tips if tip.unique_spec}):
        try:
            found.setdefault(sweep.corpus.subset_tokens(sweep.domain, cap), []).append(cap)
        except InputError:  # missing shards are reported when it is to be trained
            return
    said = []
    for size, caps in found.items():
        twice = ": the same runs, trained once for each" if len(caps) > 1 else ""
        if twice or abs(size / caps[0] - 1) > FAR:
            said.append(f"{' and '.join(map(format_count, caps))} {'become' if twice else 'becomes'} {format_count(size)}{twice}")
    if said:
        what = f"distinct text of {sweep.domain} is taken in whole documents, so {'; '.join(said)}"
        warnings.warn(f"{what}; set unique_spec to the realised amounts, or split long documents", PlannerWarning, stacklevel=3)
