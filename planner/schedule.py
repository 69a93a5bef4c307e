"""Which segment of a tree is next: ready ones by the dearest chain that hangs on them, in steps that do not grow with the tree."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from itertools import count

from planner.design.tree import Segment, Tree


class Schedule:
    """Hands out segments whose parent is done, and tells which states nothing needs any more."""

    def __init__(self, tree: Tree, left: Collection[str]) -> None:
        """Begin with the segments that are left to train; what is not among them is done."""
        self._tree = tree
        self._left = set(left)
        self._priority = tree.critical_path()
        self._order = count()
        self._ready: list[tuple[float, int, str]] = []
        self._children_left = {
            parent: number
            for parent, children in tree.children.items()
            if parent is not None and (number := sum(child.segment_id in self._left for child in children))
        }
        for segment in tree.segments:
            if segment.segment_id in self._left and segment.parent_id not in self._left:
                self._push(segment.segment_id)

    def next(self) -> Segment | None:
        """Take the next segment, or None if none can start now."""
        while self._ready:
            name = heapq.heappop(self._ready)[2]
            if name in self._left:  # else it was skipped after it became ready
                return self._tree.by_id[name]
        return None

    def done(self, segment: Segment) -> str | None:
        """Note that a segment is done; its children become ready.

        Returns:
            The parent whose state no segment that is left needs, if that is so now.
        """
        for child in self._tree.children.get(segment.segment_id, []):
            if child.segment_id in self._left:
                self._push(child.segment_id)
        return self.drop(segment)

    def drop(self, segment: Segment) -> str | None:
        """Take a segment off the list without readying its children; return as `done` does."""
        if segment.segment_id not in self._left:
            return None
        self._left.discard(segment.segment_id)
        parent = segment.parent_id
        if parent is None:
            return None
        self._children_left[parent] -= 1
        return parent if not self._children_left[parent] else None

    def _push(self, name: str) -> None:
        heapq.heappush(self._ready, (-self._priority[name], next(self._order), name))
