"""Which segment of a tree is next: among ready ones, that with the most expensive chain below it; the cost per step does not grow with the tree."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from itertools import count

from planner.design.segment import Segment
from planner.design.tree import Tree


class Schedule:
    """Hands out segments whose parent is done, and tells which states are no longer needed."""

    def __init__(self, tree: Tree, left: Collection[str]) -> None:
        """Begin with the segments that are left to train; all others are done."""
        self._tree = tree
        self._left = set(left)
        self._priority = tree.critical_path()
        self._order = count()
        self._ready: list[tuple[float, int, str]] = []
        self._users_left = {name: number for name, users in tree.users.items() if (number := sum(user.segment_id in self._left for user in users))}
        for segment in tree.segments:
            self._push_ready(segment)

    def next(self) -> Segment | None:
        """Take the next segment, or None if none can start now."""
        while self._ready:
            name = heapq.heappop(self._ready)[2]
            if name in self._left:  # otherwise it was dropped after it became ready
                return self._tree.by_id[name]
        return None

    def done(self, segment: Segment) -> list[str]:
        """Note that a segment is done; segments that waited only for it become ready.

        Returns:
            Segments whose states no remaining segment needs.
        """
        free = self.drop(segment)
        for user in self._tree.users.get(segment.segment_id, []):
            self._push_ready(user)
        return free

    def drop(self, segment: Segment) -> list[str]:
        """Drop a segment without making those that need it ready; return as `done` does."""
        if segment.segment_id not in self._left:
            return []
        self._left.discard(segment.segment_id)
        for name in segment.needs:
            self._users_left[name] -= 1
        return [name for name in segment.needs if not self._users_left[name]]

    def _push_ready(self, segment: Segment) -> None:
        name = segment.segment_id
        if name in self._left and not any(need in self._left for need in segment.needs):
            heapq.heappush(self._ready, (-self._priority[name], next(self._order), name))
