"""What goes through torch.compile: chosen by the whole tree, so that a sweep goes on as it began."""

from __future__ import annotations

import pytest

from planner.design.cells import Cell
from planner.design.compiling import LEAST_SECONDS, key_of, to_compile
from planner.design.tree import Tree, build_tree
from planner.design.walltime import COMPILED, segment_seconds, wall_seconds
from planner.errors import MissingDependencyError
from planner.recipe import Recipe


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "true")  # a command that there is


@pytest.fixture
def tree() -> Tree:
    """A size that trains for minutes, another for seconds, and packed matrices for minutes."""
    cells = [Cell(3e5, 0, 2e7, 1e6, 1e6), Cell(2e4, 0, 3e5, 3e5, 1e6), Cell(3e5, 0, 2e7, 9e6, 1e6, method="qlora")]
    return build_tree(cells, Recipe(lora_rank=4), 1024)


def test_what_trains_for_minutes_is_compiled(tree: Tree) -> None:
    keys = to_compile(tree, None, "cpu")
    large = {key_of(segment) for segment in tree.segments if segment.size == 3e5 and segment.method == "full"}
    assert keys == large
    assert sum(segment_seconds(tree, segment) for segment in tree.segments if key_of(segment) in keys) >= LEAST_SECONDS
    asked = to_compile(tree, True, "cpu")
    assert asked > keys and {method for _, method in asked} == {"full"}, "all that is asked for, but for packed matrices"
    assert not to_compile(tree, False, "cpu")


def test_it_is_known_to_pay_on_cpus_only(tree: Tree) -> None:
    assert not to_compile(tree, None, "cuda") and to_compile(tree, True, "cuda")


def test_without_a_compiler_nothing_is_compiled_unless_it_is_asked_for(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not to_compile(tree, None, "cpu") and not to_compile(tree, False, "cpu")
    with pytest.raises(MissingDependencyError, match="there is no no-such-compiler, or no Python.h; install them, or use --no-compile"):
        to_compile(tree, True, "cpu")


def test_the_expected_time_counts_it(tree: Tree) -> None:
    plain = wall_seconds(tree, tree.segments, 1)
    assert wall_seconds(tree, tree.segments, 1, lambda segment: True) == pytest.approx(COMPILED * plain)
