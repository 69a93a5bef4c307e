"""Tables of a `sweep.toml` as grids and cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from planner.artifacts import known_keys
from planner.design.cells import Cell, Grid
from planner.errors import InputError
from planner.method import METHODS, Method
from planner.units import parse_count

AXES = ("sizes", "tokens_pt", "tokens_spec", "unique_spec", "seeds", "replay_fractions", "early_fractions", "methods")
LARGEST_SEED = 2**53
"""Largest number that a file states exactly as a seed."""
_SHARES = ("replay_fractions", "early_fractions")
_CELL_KEYS = {"size", "tokens_pt", "tokens_spec", "unique_spec", "seed", "replay_fraction", "early_fraction", "method"}


def grid_of(table: Mapping[str, Any], where: str, *, based: bool = False) -> Grid:
    """Read a grid; in a sweep from bases it states no sizes.

    Raises:
        InputError: an unknown key, an empty or malformed axis.
    """
    known_keys(table, set(AXES), f"{where}: grid")
    axes: dict[str, tuple[float, ...]] = {}
    if based and "sizes" in table:
        raise InputError(f"{where}: sizes are stated beside a base, which has its own", remedy="leave out sizes, or the base")
    for key in AXES:
        if key == "methods" or (key == "sizes" and based):
            continue
        if key not in table:
            if key in ("seeds", *_SHARES):
                axes[key] = (0,)
                continue
            raise InputError(f"{where}: a grid has no {key}", remedy=f'state {key} = [...], for instance ["200k", "1M"]')
        values = table[key]
        if not isinstance(values, list) or not values:
            raise InputError(f"{where}: {key} = {values!r} is not a list with values", remedy=f"write {key} = [...]")
        axes[key] = tuple(
            math.inf if key == "unique_spec" and value == "all" else number_of(value, f"{where}: {key}") for value in values
        )
        if len(set(axes[key])) < len(axes[key]):
            raise InputError(f"{where}: {key} repeats a value: {values}", remedy="state each value once")
    for key in ("sizes", "unique_spec"):
        if min(axes.get(key, (1,))) <= 0:
            raise InputError(f"{where}: {key} holds {min(axes[key]):g}", remedy="give positive numbers")
    if not all(value == int(value) <= LARGEST_SEED for value in axes["seeds"]):
        raise InputError(f"{where}: seeds = {table['seeds']} are not whole numbers up to {LARGEST_SEED}", remedy="give whole numbers such as 0")
    for key in _SHARES:
        if max(axes[key]) >= 1:
            raise InputError(f"{where}: {key} holds {max(axes[key]):g}", remedy="give shares from 0 to below 1")
    seeds = tuple(int(value) for value in axes.pop("seeds"))
    methods = _methods(table.get("methods", ["full"]), where)
    for method in methods:
        _refuse_both(method, where, based=based, early=max(axes["early_fractions"]))
    return Grid(axes.pop("sizes", ()), seeds=seeds, methods=methods, **axes)


def _refuse_both(method: str, where: str, *, based: bool, early: float) -> None:
    """Refuse adapters in the general stage of a fresh model, which has nothing to adapt, and with early text, which is measured in full only."""
    if Method(method).both and not based:
        raise InputError(
            f"{where}: method {method!r} trains adapters in the general stage too, and there is no base for them to adapt",
            remedy='state base = "FOLDER" of an open checkpoint, or a method without -both',
        )
    if Method(method).both and early > 0:
        raise InputError(
            f"{where}: an early fraction of {early:g} with method {method!r}, whose general stage is only measured without specialist text",
            remedy="leave early text out, or state a method without -both",
        )


def _methods(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(value in METHODS for value in values) or len(set(values)) < len(values):
        raise InputError(f"{where}: methods = {values!r}", remedy=f"give a list of {', '.join(METHODS)}, each once")
    return tuple(values)


def cell_of(table: Mapping[str, Any], where: str, *, based: bool = False) -> Cell:
    """Read a cell that is stated by itself; with a single base it needs no size.

    Raises:
        InputError: an unknown or missing key, or values that are no endpoint.
    """
    known_keys(table, _CELL_KEYS, where)
    for key in ("tokens_pt", "tokens_spec") if based else ("size", "tokens_pt", "tokens_spec"):
        if key not in table:
            raise InputError(f"{where} has no {key}", remedy='state for instance {size = "80k", tokens_pt = "1M", tokens_spec = 0}')
    size, tokens_pt, tokens_spec = (number_of(table.get(key, 0), f"{where}: {key}") for key in ("size", "tokens_pt", "tokens_spec"))
    if (size <= 0 and not based) or tokens_pt + tokens_spec <= 0:
        raise InputError(f"{where} has size = {size:g} and {tokens_pt + tokens_spec:g} tokens", remedy="give a positive size and tokens")
    seed, replay, early = (number_of(table.get(key, 0), f"{where}: {key}") for key in ("seed", "replay_fraction", "early_fraction"))
    if not seed == int(seed) <= LARGEST_SEED or replay >= 1 or early >= 1:
        raise InputError(
            f"{where}: seed = {seed:g}, replay_fraction = {replay:g}, early_fraction = {early:g}", remedy="give a whole seed and shares below 1"
        )
    if early > 0 and tokens_pt == 0:
        raise InputError(f"{where} has early_fraction = {early:g} and no general stage", remedy="leave it out, or give tokens_pt")
    specialist = tokens_spec > 0 or early > 0
    if specialist != ("unique_spec" in table):
        has = "no unique_spec beside its specialist tokens" if specialist else "a unique_spec without specialist tokens"
        raise InputError(f"{where} has {has}", remedy='state unique_spec (a number or "all") exactly where tokens_spec or early_fraction is positive')
    cap = table.get("unique_spec")
    unique = None if cap is None else math.inf if cap == "all" else number_of(cap, f"{where}: unique_spec")
    if unique is not None and unique <= 0:
        raise InputError(f"{where}: unique_spec = {unique:g}", remedy="give a positive number")
    method = _methods([table.get("method", "full")], where)[0]
    _refuse_both(method, where, based=based, early=early)
    if Method(method).general.name != method and tokens_spec == 0:
        raise InputError(f"{where} has method = {method!r} and no specialist stage", remedy="leave it out, or give tokens_spec")
    return Cell(size, int(seed), tokens_pt, tokens_spec, unique, replay, early, method)


def number_of(value: Any, where: str) -> float:
    """Read a count.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InputError(f"{where} holds {value!r}, which is not a number", remedy='write numbers such as 20000 or "20k"')
    try:
        return parse_count(str(value))
    except InputError as error:
        raise InputError(f"{where}: {error.message}", remedy=error.remedy) from error
