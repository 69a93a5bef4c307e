"""The schedule against the plainest one, and its growth."""

import random
import time
from dataclasses import replace

from planner.design.cells import Cell
from planner.design.segment import Segment
from planner.design.tree import Tree, build_tree
from planner.recipe import Recipe
from planner.schedule import Schedule

RECIPE = Recipe(seq_len=32, batch_sequences=2)


def tree() -> Tree:
    cells = [
        Cell(size, seed, pt, spec, 5e3 if spec else None)
        for size in (1e4, 2e4) for seed in (0, 1) for pt in (0.0, 2e4, 4e4) for spec in (0.0, 2e4, 6e4) if pt + spec
    ]  # fmt: skip
    return build_tree(cells, RECIPE, 300)


def test_parents_come_first_the_dearest_chain_before_others_and_states_go_once() -> None:
    whole = tree()
    priority = whole.critical_path()
    for seed in range(20):
        chance = random.Random(seed)
        gone = {segment.segment_id for segment in whole.segments if segment.parent_id is None and chance.random() < 0.3}
        left = {segment.segment_id for segment in whole.segments} - gone
        schedule, running, done, dropped = Schedule(whole, left), [], set(gone), []
        while True:
            while len(running) < 3 and (segment := schedule.next()) is not None:
                ready = [
                    priority[item.segment_id] for item in whole.segments
                    if item.segment_id in left - done and item not in running and (item.parent_id is None or item.parent_id in done)
                ]  # fmt: skip
                assert priority[segment.segment_id] == max(ready)
                running.append(segment)
            if not running:
                break
            segment = running.pop(chance.randrange(len(running)))
            done.add(segment.segment_id)
            for name in schedule.done(segment):
                assert all(user.segment_id in done for user in whole.users[name])
                dropped.append(name)
        assert done == {segment.segment_id for segment in whole.segments}
        assert sorted(dropped) == sorted(parent for parent in whole.children if parent is not None)


def test_what_is_dropped_is_not_handed_out() -> None:
    whole = tree()
    schedule = Schedule(whole, {segment.segment_id for segment in whole.segments})
    root = schedule.next()
    assert root is not None
    below = list(whole.children[root.segment_id])
    for child in below:
        below += whole.children.get(child.segment_id, [])
        schedule.drop(child)
    assert schedule.done(root) == []
    handed = []
    while (segment := schedule.next()) is not None:
        handed.append(segment)
        schedule.done(segment)
    assert not {segment.segment_id for segment in handed} & {segment.segment_id for segment in below}


def test_a_state_under_adapters_stays_until_the_last_of_them() -> None:
    """The trunk's state lies under the stem's adapters and the tip's: the stem's own parent being done does not free it."""
    cells = [Cell(2e4, 0, 2e5, 2e5, 1e5, method="lora"), Cell(2e4, 0, 2e5, 0.0, None)]
    whole = build_tree(cells, RECIPE, 1024)
    trunk = next(segment.frozen_id for segment in whole.segments if segment.method == "lora")
    schedule = Schedule(whole, {segment.segment_id for segment in whole.segments})
    done: list[str] = []
    while (segment := schedule.next()) is not None:
        assert all(name in done for name in segment.needs)
        done.append(segment.segment_id)
        if trunk in schedule.done(segment):
            assert {user.segment_id for user in whole.users[trunk]} <= set(done) and len(whole.users[trunk]) >= 2
            trunk = ""
    assert trunk == "" and len(done) == len(whole.segments)


def wide(count: int) -> Tree:
    """One trunk with `count` tips on it, the worst case for anything that looks at all siblings or at all that waits."""
    first = tree().segments[0]
    tips = [replace(first, segment_id=f"t{number}", parent_id=first.segment_id) for number in range(count)]
    return Tree((first, *tips), RECIPE)


def seconds(count: int) -> float:
    whole = wide(count)
    begun = time.process_time()
    schedule = Schedule(whole, {segment.segment_id for segment in whole.segments})
    handed: list[Segment] = []
    while (segment := schedule.next()) is not None:
        handed.append(segment)
        schedule.done(segment)
    assert len(handed) == count + 1
    return time.process_time() - begun


def test_ten_times_the_segments_take_about_ten_times_as_long() -> None:
    small = min(seconds(2_000) for _ in range(3))
    assert seconds(20_000) < 40 * small, "it grows faster than the sweep: 100 times would be its square"
