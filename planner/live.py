"""The state that a runner writes for `plan sweep status` in another terminal or on another machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planner.artifacts import read_json, write_text
from planner.errors import InputError, StateError
from planner.lock import gone, holder_of, this_process


def write_live(folder: Path, running: list[str], failed: dict[str, str]) -> None:
    """Write which segments are running and which failed."""
    body = {"holder": this_process(), "running": running, "failed": failed}
    try:
        write_text(folder / "state" / "live.json", json.dumps(body) + "\n")
    except StateError:  # a full disk must not stop the sweep here
        return


def read_live(folder: Path) -> dict[str, Any]:
    """Read that state, empty if malformed; its running segments count only while the runner that wrote it holds the folder."""
    try:
        live = read_json(folder / "state" / "live.json")
    except InputError:
        return {}
    running, failed = live.get("running", []), live.get("failed", {})
    texts = [*running, *failed.values()] if isinstance(running, list) and isinstance(failed, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        return {}
    holder, writer = holder_of(folder) or {}, live.get("holder")
    if not isinstance(writer, dict) or gone(holder) or {key: holder.get(key) for key in writer} != writer:
        live["running"] = []
    return live
