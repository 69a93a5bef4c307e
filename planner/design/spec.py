"""What a sweep is to measure: `sweep.toml` as typed grids and single cells, and both as cells.

A cell is one endpoint: a size, a seed, general tokens, specialist tokens, a cap on distinct specialist tokens, a replay
fraction, a share of specialist text mixed into the general stage, and how it is trained. A sweep
may start from open checkpoints (`base`), whose sizes are then its sizes. Grids are crossed and united with the
cells that are listed one by one (`[[cell]]`, or `cell = [{...}]` with a line each); cells that are no use to a law are left
out, each with its reason.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from planner.artifacts import known_keys, read_toml
from planner.design.axes import AXES, cell_of, grid_of, number_of
from planner.design.cells import Cell, Grid, Part
from planner.errors import InputError
from planner.ladder import shape_for
from planner.pretrained import Pretrained
from planner.recipe import Recipe
from planner.shapes import ModelShape
from planner.units import format_count

MIN_STEPS = 200
"""Endpoints and specialist stages shorter than this are transients of the optimiser, not points of a law."""
MIN_TOKENS_PER_PARAMETER = 2.0
"""Endpoints under this many tokens per non-embedding parameter are transients too."""

_KEYS = {
    "name", "corpus", "domain", "trunks", "base", "base_tokens", "grid", "cell", "recipe", "max_flops_per_run", "max_epochs", "eval_tokens", *AXES,
}  # fmt: skip


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
    """Specialist domain; None (left out) when the corpus has just one."""
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
    """Where the specialist text is a mix of several domains: its parts; each domain is evaluated."""
    trunks: Path | None = None
    """Folder of the trunks' states where several sweeps of one corpus and recipe share them; None (left out) for a sweep with its own."""
    bases: tuple[Path, ...] = ()
    """Folders of open checkpoints that runs start from, each of a different size; none where they start from fresh models."""
    base_tokens: tuple[float, ...] = ()
    """Tokens that each base was trained on, where that is known."""

    @cached_property
    def pretrained(self) -> dict[float, Pretrained]:
        """Open the bases; map their non-embedding parameters, which are the sizes of the sweep, to them.

        Raises:
            InputError: a base that cannot be used, or two of one size.
        """
        found = {float(base.shape.params_non_embedding): base for base in map(Pretrained.open, self.bases)}
        if len(found) < len(self.bases):
            raise InputError(f"{len(self.bases)} bases of {len(found)} sizes in {self.folder / 'sweep.toml'}", remedy="give one base of each size")
        return found

    @property
    def shapes(self) -> dict[float, ModelShape]:
        """Map the size of each base to its shape; empty where there is none."""
        return {size: base.shape for size, base in self.pretrained.items()}

    def tokens_of_base(self, size: float) -> float | None:
        """Return the tokens that the base of a size was trained on, where that is known."""
        return dict(zip(self.pretrained, self.base_tokens, strict=True)).get(size) if self.base_tokens else None

    def cells(self, vocab: int, unique_available: float) -> tuple[list[Cell], dict[str, int]]:
        """List the cells to train, smallest first.

        Args:
            vocab: vocabulary of the corpus's tokenizer.
            unique_available: distinct specialist training tokens in the corpus.

        Returns:
            The cells, with every cap made a number, and a count of the cells left out by reason.

        Raises:
            InputError: a cell asks for more than the corpus has, or matches no single base; or none can be trained.
        """
        kept: dict[Cell, None] = {}
        left_out: Counter[str] = Counter()
        grids = [replace(grid, sizes=tuple(self.pretrained)) for grid in self.grids] if self.bases else self.grids
        for cell in chain(*(grid.cells() for grid in grids), map(self._off_base, self.listed) if self.bases else self.listed):
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
        return sorted(kept, key=_order), dict(left_out)

    def _off_base(self, cell: Cell) -> Cell:
        """Give a cell the exact size of the base that it matches."""
        near = [size for size in self.pretrained if abs(cell.size / size - 1) < 0.05] if cell.size else list(self.pretrained)
        if len(near) != 1:
            sizes = ", ".join(format_count(size) for size in self.pretrained)
            raise InputError(f"a cell of size {cell.size:g} matches {len(near)} bases in {self.folder / 'sweep.toml'}", remedy=f"state one of {sizes}")
        return replace(cell, size=near[0])

    def _reason_to_leave_out(self, cell: Cell, vocab: int) -> str | None:
        shape = self.shapes.get(cell.size) or shape_for(cell.size, family=self.recipe.family, vocab=vocab)
        tokens, seq_len = cell.tokens_trunk + cell.tokens_stage, self.recipe.seq_len
        if cell.method != "full" and cell.tokens_pt == 0 and not self.bases:
            return f"with method {cell.method} on a fresh model"
        if cell.unique_spec and (cell.tokens_spec + cell.tokens_early) / cell.unique_spec > self.max_epochs * 1.001:
            return f"with more than {self.max_epochs:g} epochs"
        method = self.recipe.method(cell.method)
        general, special = (stage.flops_per_token(shape, seq_len) for stage in (method.general, method))
        if cell.tokens_trunk * general + cell.tokens_stage * special > self.max_flops_per_run * 1.001:
            return f"above {self.max_flops_per_run:.3g} FLOPs"
        if self.recipe.steps(tokens) < MIN_STEPS or 0 < self.recipe.steps(cell.tokens_spec) < MIN_STEPS:
            return f"with a run or a specialist stage under {MIN_STEPS} steps"
        if not self.bases and tokens < MIN_TOKENS_PER_PARAMETER * shape.params_non_embedding:
            return f"under {MIN_TOKENS_PER_PARAMETER:g} tokens per parameter"
        return None


def _order(cell: Cell) -> tuple[float | str, ...]:
    return cell.size, cell.seed, cell.tokens_pt, cell.unique_spec or 0, cell.tokens_spec, cell.early_fraction, cell.method


def read_sweep(path: Path | str) -> SweepSpec:
    """Read `sweep.toml`, given the file or its folder.

    Raises:
        InputError: a missing file, an unknown key, an empty or malformed axis.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "sweep.toml"
    table = read_toml(path)
    known_keys(table, _KEYS, str(path))
    base = {key: table[key] for key in AXES if key in table}
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
    bases, base_tokens = _bases(table, path)
    trunks = table.get("trunks")
    if trunks is not None and (not isinstance(trunks, str) or not trunks):
        raise InputError(f"{path}: trunks = {trunks!r} names no folder", remedy='state trunks = "FOLDER", shared by sweeps of one corpus')
    numbers = {key: number_of(table[key], f"{path}: {key}") for key in ("max_flops_per_run", "max_epochs", "eval_tokens") if key in table}
    for key, value in numbers.items():
        if value <= 0:
            raise InputError(f"{path}: {key} = {table[key]!r} is not positive", remedy="give a positive number")
    if (tokens := numbers.get("eval_tokens", 1.0)) != int(tokens):
        raise InputError(f"{path}: eval_tokens = {table['eval_tokens']!r} is not a whole number", remedy="give a whole number")
    return SweepSpec(
        name=table.get("name", path.resolve().parent.name),
        folder=path.parent,
        corpus=(path.parent / corpus).resolve(),
        domain=table.get("domain"),
        grids=tuple(grid_of({**base, **grid}, str(path), based=bool(bases)) for grid in grids),
        recipe=Recipe.from_mapping(recipe),
        max_flops_per_run=numbers.get("max_flops_per_run", math.inf),
        max_epochs=numbers.get("max_epochs", math.inf),
        eval_tokens=int(numbers.get("eval_tokens", SweepSpec.eval_tokens)),
        trunks=(path.parent / trunks).resolve() if trunks else None,
        listed=tuple(cell_of(cell, f"{path}: cell {number + 1}", based=bool(bases)) for number, cell in enumerate(listed)),
        bases=bases,
        base_tokens=base_tokens,
    )


def _bases(table: dict[str, Any], path: Path) -> tuple[tuple[Path, ...], tuple[float, ...]]:
    """Read the folders of the bases and the tokens that they were trained on."""
    stated = table.get("base", [])
    names = [stated] if isinstance(stated, str) else stated
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path}: base = {stated!r} names no folder", remedy='state base = "FOLDER" of a checkpoint, or a list of them')
    tokens = table.get("base_tokens", [])
    counts = tokens if isinstance(tokens, list) else [tokens]
    if counts and len(counts) != len(names):
        raise InputError(f"{path}: base_tokens states {len(counts)} counts for {len(names)} bases", remedy="give one count for each base, or none")
    return tuple((path.parent / name).resolve() for name in names), tuple(number_of(count, f"{path}: base_tokens") for count in counts)
