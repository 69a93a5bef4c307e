"""Which segment of a tree is next: ready ones by the dearest chain that hangs on them, in steps that do not grow with the tree."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from itertools import count

from planner.design.segment import Segment
from planner.design.tree import Tree


class Schedule:
    """Hands out segments whose parent is done, and tells which states nothing needs any more."""

    def __init__(self, tree: Tree, left: Collection[str]) -> None:
        """Begin with the segments that are left to train; what is not among them is done."""
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
            if name in self._left:  # else it was skipped after it became ready
                return self._tree.by_id[name]
        return None

    def done(self, segment: Segment) -> list[str]:
        """Note that a segment is done; what needed nothing else becomes ready.

        Returns:
            Segments whose states no segment that is left needs any more.
        """
        free = self.drop(segment)
        for user in self._tree.users.get(segment.segment_id, []):
            self._push_ready(user)
        return free

    def drop(self, segment: Segment) -> list[str]:
        """Take a segment off the list without readying what needs it; return as `done` does."""
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
