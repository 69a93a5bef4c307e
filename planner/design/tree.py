"""The cells as a tree of training segments, so that what runs share is trained once.

For each size and seed one *trunk* trains on general text at a constant learning rate. From its states *stems* train on
specialist text, still at a constant rate, one stem for each (tokens_pt, cap on distinct tokens, replay fraction, method). From the
states of a stem *tips* cool down, one for each tokens_spec: the endpoint, one row. A zero-shot tip (tokens_spec = 0) cools
down on general text, from the trunk. With tokens_pt = 0 the stem starts from a fresh model, with warm-up, or from the base. Specialist
text mixed into the general stage makes another trunk, and so do adapters that are trained from the start, on a base: stems continue with
them. A stem with adapters of its own adapts the trunk's state, which stays frozen and is needed by each of the stem's segments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from planner.design.cells import Cell
from planner.design.segment import Segment
from planner.errors import InputError
from planner.flops import FORWARD_SHARE, flops_per_token
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.shapes import ModelShape


@dataclass(frozen=True)
class Tree:
    """Segments in an order in which parents come first."""

    segments: tuple[Segment, ...]
    recipe: Recipe
    eval_tokens: int = 0
    children: dict[str | None, list[Segment]] = field(init=False, repr=False, compare=False)
    """Segments by their parent."""
    users: dict[str, list[Segment]] = field(init=False, repr=False, compare=False)
    """Segments that need a segment's state, by its name: its children, and those whose adapters adapt it."""

    def __post_init__(self) -> None:
        children: dict[str | None, list[Segment]] = defaultdict(list)
        users: dict[str, list[Segment]] = defaultdict(list)
        seen: set[str] = set()
        for segment in self.segments:
            assert segment.parent_id is None or segment.parent_id in seen, segment
            assert segment.segment_id not in seen, segment.segment_id
            seen.add(segment.segment_id)
            children[segment.parent_id].append(segment)
            for name in segment.needs:
                users[name].append(segment)
        object.__setattr__(self, "users", dict(users))
        object.__setattr__(self, "children", dict(children))

    @cached_property
    def by_id(self) -> dict[str, Segment]:
        """Map names to segments."""
        return {segment.segment_id: segment for segment in self.segments}

    @property
    def tips(self) -> list[Segment]:
        """List the segments that end in an endpoint."""
        return [segment for segment in self.segments if segment.cell is not None]

    def flops(self, segment: Segment) -> float:
        """Count a segment's training FLOPs, its evaluation left out."""
        return segment.steps * self.recipe.tokens_per_step * self._flops_per_token(segment)

    def _flops_per_token(self, segment: Segment) -> float:
        return self.recipe.method(segment.method).flops_per_token(segment.shape, self.recipe.seq_len)

    def cost(self, segment: Segment) -> float:
        """Count a segment's FLOPs with its evaluation, which is what it takes to run."""
        evaluation = 2 * self.eval_tokens * FORWARD_SHARE if segment.cell is not None else 0
        return self.flops(segment) + evaluation * flops_per_token(segment.shape, self.recipe.seq_len)

    @property
    def flops_total(self) -> float:
        """Count the FLOPs of the whole tree, evaluation included."""
        return sum(self.cost(segment) for segment in self.segments)

    @property
    def flops_cell_by_cell(self) -> float:
        """Count what training every endpoint alone would cost, evaluation included."""
        total = 0.0
        for tip in self.tips:
            evaluation = self.cost(tip) - self.flops(tip)
            total += evaluation + self.flops_of_run(tip)
        return total

    def flops_of_run(self, tip: Segment) -> float:
        """Count the training FLOPs of the whole path to an endpoint, evaluation left out."""
        before = self.recipe.method(tip.method).general.flops_per_token(tip.shape, self.recipe.seq_len)
        general = tip.steps_pt * before if tip.stage == "special" else 0.0
        return self.recipe.tokens_per_step * (general + tip.last_step * self._flops_per_token(tip))

    def critical_path(self) -> dict[str, float]:
        """Map each segment to the cost of the most expensive chain that starts with it; the scheduler takes the largest first."""
        path: dict[str, float] = {}
        for segment in reversed(self.segments):
            below = max((path[child.segment_id] for child in self.children.get(segment.segment_id, [])), default=0.0)
            path[segment.segment_id] = self.cost(segment) + below
        return path


def build_tree(
    cells: Iterable[Cell],
    recipe: Recipe,
    vocab: int,
    *,
    eval_tokens: int = 0,
    max_segment_steps: int | None = None,
    shapes: dict[float, ModelShape] | None = None,
    learning_rate: float | None = None,
    base: bool = False,
) -> Tree:
    """Arrange cells as a tree of segments.

    Args:
        cells: the endpoints.
        recipe: what is the same in every run.
        vocab: vocabulary of the tokenizer.
        eval_tokens: held-out tokens a domain evaluated at each endpoint; only the cost depends on it.
        max_segment_steps: most steps between two states, for runs where a lost segment would be expensive.
        shapes: shapes for requested sizes, instead of those of the ladder.
        learning_rate: peak rate instead of the recipe's rule (for probing it).
        base: whether runs start from open checkpoints, of the shapes given.
    """
    chosen = dict(shapes or {})
    groups: dict[tuple[float, int], list[Cell]] = defaultdict(list)
    for cell in dict.fromkeys(cells):
        groups[cell.size, cell.seed].append(cell)
    segments: list[Segment] = []
    names = _size_names([size for size, _ in groups])
    seen: dict[str, dict[str, Any]] = {}
    for (size, seed), group in groups.items():
        shape = chosen.get(size) or shape_for(size, family=recipe.family, vocab=vocab)
        rate = learning_rate if learning_rate is not None else recipe.learning_rate(shape.params_non_embedding)
        prefix = f"n{names[size]}-s{seed}" + ("" if learning_rate is None else f"-lr{learning_rate:.3g}")
        _refuse_same_name(seen, prefix, {"sizes": size})
        common: dict[str, Any] = {"shape": shape, "size": size, "seed": seed, "learning_rate": rate, "base": base}
        segments += _size_tree(prefix, group, recipe, common, max_segment_steps)
    return Tree(tuple(segments), recipe, eval_tokens)


def _size_names(sizes: Iterable[float]) -> dict[float, str]:
    return {size: f"{size:g}".replace("+", "") for size in sizes}


def _refuse_same_name(seen: dict[str, dict[str, Any]], name: str, values: dict[str, Any]) -> None:
    """Refuse values that are the same in the few digits that names of segments keep.

    Args:
        seen: names so far, with their values; the new one is added.
        name: the new one.
        values: by the setting that they come from.

    Raises:
        InputError: the name stands for other values already; both are named.
    """
    for key, value in seen.setdefault(name, values).items():
        if values[key] != value:
            raise InputError(f"{key} has {value!r} and {values[key]!r}, too close to tell apart", remedy="state one of them, or values farther apart")


def _size_tree(prefix: str, cells: Sequence[Cell], recipe: Recipe, common: dict[str, Any], longest: int | None) -> list[Segment]:
    trunks: dict[tuple[float, float | None, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        general = recipe.method(cell.method).general.name
        trunks[cell.early_fraction, cell.unique_spec if cell.early_fraction else None, general].append(cell)
    segments: list[Segment] = []
    seen: dict[str, dict[str, Any]] = {}
    for (early, unique, method), group in sorted(trunks.items(), key=lambda item: (item[0][0], item[0][1] or 0, item[0][2])):
        name = prefix + (f"-e{early:g}-u{unique:.0f}" if early else "") + (f"-{method}" if method != "full" else "")
        _refuse_same_name(seen, name, {"early_fractions": early, "unique_spec": unique})
        segments += _trunk_tree(name, group, recipe, {**common, "early_fraction": early, "method": method}, unique, longest)
    return segments


def _trunk_tree(
    prefix: str, cells: Sequence[Cell], recipe: Recipe, common: dict[str, Any], early_cap: float | None, longest: int | None
) -> list[Segment]:
    """Arrange the cells of one trunk."""
    unspecialised: dict[int, Cell] = {}
    stems: dict[tuple[int, float, float, str], dict[int, Cell]] = defaultdict(dict)
    for cell in cells:
        steps_pt = recipe.steps(cell.tokens_trunk)
        if cell.tokens_spec == 0:
            _once(unspecialised, steps_pt, cell)
        else:
            assert cell.unique_spec is not None
            _once(stems[steps_pt, cell.unique_spec, cell.replay_fraction, cell.method], recipe.steps(cell.tokens_stage), cell)
    leave = {total: total - cooldown_steps(recipe, total) for total in unspecialised}
    trunk_stops = sorted({steps for steps, *_ in stems if steps > 0} | {stop for stop in leave.values() if stop > 0})
    general = {
        **common, "stage": "general", "steps_pt": 0, "warmup": True, "unique_spec": early_cap,
        "learning_rate": common["learning_rate"] * recipe.general_multiplier(common["method"]),
    }  # fmt: skip
    segments, last = _chain(f"{prefix}-pt", None, trunk_stops, general, longest)
    for total, stop in sorted(leave.items()):
        segments += _tip(f"{prefix}-pt{total}-end", last.get(stop), stop, total, general, unspecialised[total], longest)
    seen: dict[str, dict[str, Any]] = {}
    for (steps_pt, unique, replay, method), ends in sorted(stems.items()):
        adapted = method != common["method"]  # the stem's adapters are its own
        stem = f"{prefix}-pt{steps_pt}-u{unique:.0f}" + (f"-r{replay:g}" if replay else "") + (f"-{method}" if adapted else "") + "-sp"
        _refuse_same_name(seen, stem, {"unique_spec": unique, "replay_fractions": replay})
        origin = last[steps_pt] if steps_pt else None
        special = {
            **common, "stage": "special", "steps_pt": steps_pt, "warmup": steps_pt == 0 or adapted, "unique_spec": unique, "replay_fraction": replay,
            "method": method, "learning_rate": common["learning_rate"] * recipe.special_multiplier(method), "frozen_id": origin if adapted else None,
        }  # fmt: skip
        stops = sorted({total - cooldown_steps(recipe, total) for total in ends} - {0})
        chain, stem_last = _chain(stem, origin, stops, special, longest)
        segments += chain
        for total, cell in sorted(ends.items()):
            stop = total - cooldown_steps(recipe, total)
            segments += _tip(f"{stem}{total}-end", stem_last.get(stop, origin), stop, total, special, cell, longest)
    return segments


def _tip(
    name: str, parent: str | None, stop: int, total: int, common: dict[str, Any], cell: Cell, longest: int | None
) -> list[Segment]:
    """Cool down from `stop` to `total`; only the last piece completes the cell."""
    pieces: list[Segment] = []
    cooldown: dict[str, Any] = {"cooldown_from": stop, "cooldown_to": total}
    done = stop
    while longest is not None and total - done > longest:
        pieces.append(Segment(f"{name}-at{done + longest}", parent, first_step=done, last_step=done + longest, **cooldown, **common))
        parent, done = pieces[-1].segment_id, done + longest
    return [*pieces, Segment(name, parent, first_step=done, last_step=total, cell=cell, **cooldown, **common)]


def _chain(prefix: str, origin: str | None, stops: Sequence[int], common: dict[str, Any], longest: int | None) -> tuple[list[Segment], dict[int, str]]:
    """Cut one stage into segments that end at the stops; return them and the segment that ends at each stop."""
    segments: list[Segment] = []
    last: dict[int, str] = {}
    parent, done = origin, 0
    for stop in stops:
        while done < stop:
            end = stop if longest is None else min(stop, done + longest)
            segments.append(Segment(f"{prefix}{end}", parent, first_step=done, last_step=end, **common))
            parent, done = segments[-1].segment_id, end
        assert parent is not None
        last[stop] = parent
    return segments, last


def cooldown_steps(recipe: Recipe, total: int) -> int:
    """Count the steps of the cooldown that ends a stage of `total` steps."""
    return min(total, round(recipe.cooldown_fraction * total))


def _once(ends: dict[int, Cell], steps: int, cell: Cell) -> None:
    if steps in ends:
        raise InputError(
            f"cells {ends[steps]} and {cell} round to the same {steps} steps",
            remedy="keep grid values at least one batch of tokens apart",
        )
    ends[steps] = cell
