"""What a sweep is to measure: `sweep.toml` as typed grids and single cells, and both as cells.

A cell is one endpoint: a size, a seed, general tokens, specialist tokens, a cap on distinct specialist tokens, a replay
fraction, and a share of specialist text that is mixed into the general stage already. Grids are crossed and united with the
cells that are listed one by one (`[[cell]]`, or `cell = [{...}]` with a line each); cells that could not carry a law are left
out, each with its reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

from planner.artifacts import read_toml
from planner.errors import InputError
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.units import format_count, parse_count

MIN_STEPS = 200
"""Endpoints and specialist stages shorter than this are transients of the optimiser, not points of a law."""
MIN_TOKENS_PER_PARAMETER = 2.0
"""Endpoints under this many tokens per non-embedding parameter are transients too."""

_AXES = ("sizes", "tokens_pt", "tokens_spec", "unique_spec", "seeds", "replay_fractions", "early_fractions")
_SHARES = ("replay_fractions", "early_fractions")
_KEYS = {"name", "corpus", "domain", "trunks", "grid", "cell", "recipe", "max_flops_per_run", "max_epochs", "eval_tokens", *_AXES}
_CELL_KEYS = {"size", "tokens_pt", "tokens_spec", "unique_spec", "seed", "replay_fraction", "early_fraction"}


@dataclass(frozen=True, order=True)
class Cell:
    """One endpoint to train."""

    size: float
    """Requested non-embedding parameters."""
    seed: int
    """Seed of initialisation and data order."""
    tokens_pt: float
    """General tokens requested."""
    tokens_spec: float
    """Specialist tokens of the specialist stage requested, repeats included."""
    unique_spec: float | None
    """Cap on distinct specialist tokens; infinity for all there are, None where no stage has any."""
    replay_fraction: float = 0.0
    """Share of general tokens inside the specialist stage."""
    early_fraction: float = 0.0
    """Share of specialist tokens inside the general stage; `tokens_pt` counts the general ones only."""

    @property
    def tokens_trunk(self) -> float:
        """Tokens of the general stage, the specialist ones inside it included."""
        return self.tokens_pt / (1 - self.early_fraction)

    @property
    def tokens_early(self) -> float:
        """Specialist tokens inside the general stage."""
        return self.tokens_trunk * self.early_fraction

    @property
    def tokens_stage(self) -> float:
        """Tokens of the specialist stage, replayed ones included."""
        return self.tokens_spec / (1 - self.replay_fraction)


@dataclass(frozen=True)
class Part:
    """One domain's text in a mix of several."""

    domain: str
    """Name of the domain in the corpus."""
    share: float
    """Of the mix's specialist tokens; the parts add up to 1."""
    unique_spec: float
    """Cap on its distinct tokens."""


@dataclass(frozen=True)
class Grid:
    """Axes to be crossed."""

    sizes: tuple[float, ...]
    tokens_pt: tuple[float, ...]
    tokens_spec: tuple[float, ...]
    unique_spec: tuple[float, ...]
    seeds: tuple[int, ...] = (0,)
    replay_fractions: tuple[float, ...] = (0.0,)
    early_fractions: tuple[float, ...] = (0.0,)

    def cells(self) -> list[Cell]:
        """Cross the axes; of the caps that the tokens do not fill, keep the smallest, since the rest train the same run."""
        found = []
        for size, seed, tokens_pt, tokens_spec in product(self.sizes, self.seeds, self.tokens_pt, self.tokens_spec):
            for early in self.early_fractions if tokens_pt > 0 else (0.0,):
                plain = Cell(size, seed, tokens_pt, tokens_spec, None, early_fraction=early)
                seen = tokens_spec + plain.tokens_early
                if seen == 0:
                    found += [plain] if tokens_pt > 0 else []
                    continue
                enough = [cap for cap in sorted(self.unique_spec) if cap >= seen]
                for cap in [cap for cap in self.unique_spec if cap < seen] + enough[:1]:
                    for replay in self.replay_fractions if tokens_spec > 0 else (0.0,):
                        found.append(replace(plain, unique_spec=cap, replay_fraction=replay))
        return found


@dataclass(frozen=True)
class SweepSpec:
    """A sweep as stated in its `sweep.toml`."""

    name: str
    """Name of the sweep; its folder's name unless stated."""
    folder: Path
    """Folder of sweep.toml; records and the runs table are written there."""
    corpus: Path
    """Corpus folder."""
    domain: str | None
    """Specialist domain; None when the corpus has just one."""
    grids: tuple[Grid, ...]
    """Grids whose cells are united."""
    recipe: Recipe
    """What is the same in every run."""
    max_flops_per_run: float = math.inf
    """Cells that would cost more FLOPs, counted alone, are left out."""
    max_epochs: float = math.inf
    """Cells with more passes over the distinct specialist tokens are left out."""
    eval_tokens: int = 65536
    """Held-out tokens a domain on which each endpoint is evaluated, at most."""
    listed: tuple[Cell, ...] = ()
    """Cells stated one by one, united with those of the grids."""
    mixture: tuple[Part, ...] = ()
    """Where the specialist text is a mix of several domains: its parts; each is evaluated on."""
    trunks: Path | None = None
    """Folder of the trunks' states where several sweeps of one corpus and recipe share them; None for a sweep with its own."""

    def cells(self, vocab: int, unique_available: float) -> tuple[list[Cell], dict[str, int]]:
        """List the cells to train, smallest first.

        Args:
            vocab: vocabulary of the corpus's tokenizer.
            unique_available: distinct specialist training tokens in the corpus.

        Returns:
            The cells, with every cap made a number, and a count of the cells left out by reason.
        """
        kept: dict[Cell, None] = {}
        left_out: Counter[str] = Counter()
        for cell in chain(*(grid.cells() for grid in self.grids), self.listed):
            if cell.unique_spec is not None:
                if cell.unique_spec != math.inf and cell.unique_spec > unique_available:
                    raise InputError(
                        f"unique_spec = {format_count(cell.unique_spec)} in {self.folder / 'sweep.toml'} is more than the corpus's "
                        f"{format_count(unique_available)} distinct specialist tokens",
                        remedy="lower it, write \"all\", or build a larger corpus",
                    )
                cell = replace(cell, unique_spec=min(cell.unique_spec, unique_available))
            reason = self._reason_to_leave_out(cell, vocab)
            if cell in kept:
                continue
            if reason:
                left_out[reason] += 1
            else:
                kept[cell] = None
        if not kept:
            reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.items()) or "the grid is empty"
            raise InputError(f"no cell of sweep {self.name!r} can be trained: {reasons}", remedy="widen the grid or its limits")
        order = sorted(kept, key=lambda cell: (cell.size, cell.seed, cell.tokens_pt, cell.unique_spec or 0, cell.tokens_spec, cell.early_fraction))
        return order, dict(left_out)

    def _reason_to_leave_out(self, cell: Cell, vocab: int) -> str | None:
        shape = shape_for(cell.size, family=self.recipe.family, vocab=vocab)
        tokens = cell.tokens_trunk + cell.tokens_stage
        if cell.unique_spec and (cell.tokens_spec + cell.tokens_early) / cell.unique_spec > self.max_epochs * 1.001:
            return f"with more than {self.max_epochs:g} epochs"
        if tokens * flops_per_token(shape, self.recipe.seq_len) > self.max_flops_per_run * 1.001:
            return f"above {self.max_flops_per_run:.3g} FLOPs"
        if self.recipe.steps(tokens) < MIN_STEPS or 0 < self.recipe.steps(cell.tokens_spec) < MIN_STEPS:
            return f"with a run or a specialist stage under {MIN_STEPS} steps"
        if tokens < MIN_TOKENS_PER_PARAMETER * shape.params_non_embedding:
            return f"under {MIN_TOKENS_PER_PARAMETER:g} tokens per parameter"
        return None


def read_sweep(path: Path | str) -> SweepSpec:
    """Read `sweep.toml`, given the file or its folder.

    Raises:
        InputError: a missing file, an unknown key, an empty or malformed axis.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "sweep.toml"
    table = read_toml(path)
    _known_keys(table, _KEYS, str(path))
    base = {key: table[key] for key in _AXES if key in table}
    listed = table.get("cell", [])
    if not isinstance(listed, list) or not all(isinstance(cell, dict) for cell in listed):
        raise InputError(f"{path}: cell is not a list of tables", remedy="write each cell as [[cell]], or cell = [{...}, {...}]")
    grids = table.get("grid", [] if listed and not base else [{}])
    if not isinstance(grids, list) or not all(isinstance(grid, dict) for grid in grids):
        raise InputError(f"{path}: grid is not a list of tables", remedy="write each grid as [[grid]]")
    if not grids and not listed:
        raise InputError(f"{path} has no grid and no cell", remedy="state sizes, tokens_pt, tokens_spec and unique_spec")
    recipe = table.get("recipe", {})
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: recipe is not a table", remedy="write it as [recipe]")
    corpus = table.get("corpus")
    if not isinstance(corpus, str) or not corpus:
        raise InputError(f"{path}: corpus = {corpus!r} names no folder", remedy='state corpus = "FOLDER", as plan corpus build wrote it')
    for key in ("name", "domain"):
        if key in table and (not isinstance(table[key], str) or not table[key]):
            raise InputError(f"{path}: {key} = {table[key]!r} is not a name", remedy="give a text")
    trunks = table.get("trunks")
    if trunks is not None and (not isinstance(trunks, str) or not trunks):
        raise InputError(f"{path}: trunks = {trunks!r} names no folder", remedy='state trunks = "FOLDER", shared by sweeps of one corpus')
    numbers = {key: _number(table[key], f"{path}: {key}") for key in ("max_flops_per_run", "max_epochs", "eval_tokens") if key in table}
    for key, value in numbers.items():
        if value <= 0:
            raise InputError(f"{path}: {key} = {table[key]!r} is not positive", remedy="give a positive number")
    return SweepSpec(
        name=table.get("name", path.resolve().parent.name),
        folder=path.parent,
        corpus=(path.parent / corpus).resolve(),
        domain=table.get("domain"),
        grids=tuple(_grid({**base, **grid}, str(path)) for grid in grids),
        recipe=Recipe.from_mapping(recipe),
        max_flops_per_run=numbers.get("max_flops_per_run", math.inf),
        max_epochs=numbers.get("max_epochs", math.inf),
        eval_tokens=int(numbers.get("eval_tokens", 65536)),
        trunks=(path.parent / trunks).resolve() if trunks else None,
        listed=tuple(_cell(cell, f"{path}: cell {number + 1}") for number, cell in enumerate(listed)),
    )


def _grid(table: Mapping[str, Any], where: str) -> Grid:
    _known_keys(table, set(_AXES), f"{where}: grid")
    axes: dict[str, tuple[float, ...]] = {}
    for key in _AXES:
        if key not in table:
            if key in ("seeds", *_SHARES):
                axes[key] = (0,)
                continue
            raise InputError(f"{where}: a grid has no {key}", remedy=f'state {key} = [...], for instance ["200k", "1M"]')
        values = table[key]
        if not isinstance(values, list) or not values:
            raise InputError(f"{where}: {key} = {values!r} is not a list with values", remedy=f"write {key} = [...]")
        axes[key] = tuple(
            math.inf if key == "unique_spec" and value == "all" else _number(value, f"{where}: {key}") for value in values
        )
        if len(set(axes[key])) < len(axes[key]):
            raise InputError(f"{where}: {key} repeats a value: {values}", remedy="state each value once")
    for key in ("sizes", "unique_spec"):
        if min(axes[key]) <= 0:
            raise InputError(f"{where}: {key} holds {min(axes[key]):g}", remedy="give positive numbers")
    if not all(value == int(value) for value in axes["seeds"]):
        raise InputError(f"{where}: seeds = {table['seeds']} are not whole numbers", remedy="give whole numbers")
    for key in _SHARES:
        if max(axes[key]) >= 1:
            raise InputError(f"{where}: {key} holds {max(axes[key]):g}", remedy="give shares from 0 to below 1")
    seeds = tuple(int(value) for value in axes.pop("seeds"))
    return Grid(seeds=seeds, **axes)


def _cell(table: Mapping[str, Any], where: str) -> Cell:
    _known_keys(table, _CELL_KEYS, where)
    for key in ("size", "tokens_pt", "tokens_spec"):
        if key not in table:
            raise InputError(f"{where} has no {key}", remedy='state for instance {size = "80k", tokens_pt = "1M", tokens_spec = 0}')
    size, tokens_pt, tokens_spec = (_number(table[key], f"{where}: {key}") for key in ("size", "tokens_pt", "tokens_spec"))
    if size <= 0 or tokens_pt + tokens_spec <= 0:
        raise InputError(f"{where} has size = {size:g} and {tokens_pt + tokens_spec:g} tokens", remedy="give a positive size and tokens")
    seed, replay, early = (_number(table.get(key, 0), f"{where}: {key}") for key in ("seed", "replay_fraction", "early_fraction"))
    if seed != int(seed) or replay >= 1 or early >= 1:
        raise InputError(
            f"{where}: seed = {seed:g}, replay_fraction = {replay:g}, early_fraction = {early:g}", remedy="give a whole seed and shares below 1"
        )
    if early > 0 and tokens_pt == 0:
        raise InputError(f"{where} has early_fraction = {early:g} and no general stage", remedy="leave it out, or give tokens_pt")
    specialist = tokens_spec > 0 or early > 0
    if specialist != ("unique_spec" in table):
        has = "no unique_spec beside its specialist tokens" if specialist else "a unique_spec without specialist tokens"
        raise InputError(f"{where} has {has}", remedy='state unique_spec (a number or "all") just where tokens_spec or early_fraction is positive')
    cap = table.get("unique_spec")
    unique = None if cap is None else math.inf if cap == "all" else _number(cap, f"{where}: unique_spec")
    if unique is not None and unique <= 0:
        raise InputError(f"{where}: unique_spec = {unique:g}", remedy="give a positive number")
    return Cell(size, int(seed), tokens_pt, tokens_spec, unique, replay, early)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InputError(f"{where} holds {value!r}, which is not a number", remedy='write numbers such as 20000 or "20k"')
    try:
        return parse_count(str(value))
    except InputError as error:
        raise InputError(f"{where}: {error.message}", remedy=error.remedy) from error


def _known_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise InputError(f"{where}: there is no setting {key!r}", remedy=f"use only {', '.join(sorted(known))}")
