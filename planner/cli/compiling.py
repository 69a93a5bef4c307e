"""`--compile/--no-compile` of the commands that train segment by segment: one help, one choice, one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from planner.cli.console import say
from planner.units import format_count

if TYPE_CHECKING:
    from planner.design.segment import Segment
    from planner.design.tree import Tree

FLAGS = "--compile/--no-compile"
HELP = "Whether to use torch.compile; by default on CPUs, for models that train for ten minutes or more."
Compiled: TypeAlias = Annotated[bool | None, typer.Option(FLAGS, help=HELP)]


def compiled_among(tree: Tree, segments: Sequence[Segment], asked: bool | None, device: str) -> Callable[[Segment], bool]:
    """Choose as the engine will what goes through torch.compile, and say which sizes that are.

    Args:
        tree: all that is trained, on which the choice rests.
        segments: those that are left.
        asked: by `--compile` or `--no-compile`; None where neither is given.
        device: "cpu" or "cuda".

    Returns:
        Whether a segment does.

    Raises:
        MissingDependencyError: compiling is asked for and there is no compiler.
    """
    from planner.design.compiling import key_of, to_compile
    from planner.method import Method

    through = to_compile(tree, asked, device)
    if sizes := sorted({segment.size for segment in segments if key_of(segment) in through}):
        say(f"through torch.compile: {', '.join(format_count(size) for size in sizes)}; compiling takes up to a minute a size, once on a machine")
    if asked and (quantised := sorted({segment.method for segment in segments if Method(segment.method).quantised})):
        say(f"warning: --compile says nothing to {', '.join(quantised)}, whose quantised matrices torch.compile does not take")
    return lambda segment: key_of(segment) in through
