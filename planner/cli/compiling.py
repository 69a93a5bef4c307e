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
HELP = "Use torch.compile; by default only on CPUs, for models that train for ten minutes or more."
Compiled: TypeAlias = Annotated[bool | None, typer.Option(FLAGS, help=HELP)]


def compiled_among(tree: Tree, segments: Sequence[Segment], asked: bool | None, device: str) -> Callable[[Segment], bool]:
    """Choose what is compiled, as the engine will, and print which sizes those are.

    Args:
        tree: everything that is trained, on which the choice depends.
        segments: those left to train.
        asked: by `--compile` or `--no-compile`; None where neither is given.
        device: "cpu" or "cuda".

    Returns:
        A function that tells whether a segment is compiled.

    Raises:
        MissingDependencyError: compiling is asked for and there is no compiler.
    """
    from planner.design.compiling import key_of, to_compile
    from planner.method import Method

    through = to_compile(tree, asked, device)
    if sizes := sorted({segment.size for segment in segments if key_of(segment) in through}):
        say(f"using torch.compile for {', '.join(format_count(size) for size in sizes)}; compiling takes up to a minute per size, once per machine")
    if asked and (quantised := sorted({segment.method for segment in segments if Method(segment.method).quantised})):
        say(f"warning: --compile has no effect on {', '.join(quantised)}: torch.compile does not support quantised matrices")
    return lambda segment: key_of(segment) in through
