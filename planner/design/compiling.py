"""Which models of a sweep go through torch.compile: it costs most of a minute per shape, once, and saves a fifth of every step. Imports no torch.

The choice depends on the whole tree, not on what is left of it, so that a stopped sweep resumes as it began, to the same digits.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import TypeAlias

from planner.design.segment import Segment
from planner.design.tree import Tree
from planner.design.walltime import segment_seconds
from planner.errors import MissingDependencyError
from planner.method import Method
from planner.shapes import ModelShape

LEAST_SECONDS = 600.0
"""Least time of all segments of a model, uncompiled on one thread [s], for which compiling it pays even where nothing is cached yet."""

Key: TypeAlias = tuple[ModelShape, str]
"""What is compiled once: a shape, and the method that says what of it is trained."""


def key_of(segment: Segment) -> Key:
    """Return what a segment trains."""
    return segment.shape, segment.method


def to_compile(tree: Tree, asked: bool | None, device: str) -> frozenset[Key]:
    """Choose what to compile.

    Args:
        tree: the whole sweep.
        asked: True for all, False for nothing; None for what pays, which is known on CPUs only.
        device: "cpu" or "cuda".

    Raises:
        MissingDependencyError: compiling is asked for and there is no compiler.
    """
    if asked is False or (asked is None and (device != "cpu" or not has_compiler())):
        return frozenset()
    if not has_compiler():
        raise MissingDependencyError(
            f"torch.compile needs a C++ compiler and Python's headers, and there is no {_name()}, or no Python.h",
            remedy="install them, or use --no-compile",
        )
    seconds: dict[Key, float] = {}
    for segment in tree.segments:
        seconds[key_of(segment)] = seconds.get(key_of(segment), 0.0) + segment_seconds(tree, segment)
    return frozenset(key for key, time in seconds.items() if (asked or time >= LEAST_SECONDS) and not Method(key[1]).quantised)


def has_compiler() -> bool:
    """Tell whether there are the C++ compiler that torch.compile would call, and Python's headers for it."""
    return shutil.which(_name()) is not None and (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def _name() -> str:
    return os.environ.get("CXX", "g++")
