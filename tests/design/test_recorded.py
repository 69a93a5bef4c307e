"""The recorded sweeps' sweep.toml still make the runs that were recorded: names, trunks, FLOPs, rates and methods."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from planner.design.spec import read_sweep
from planner.design.tree import build_tree
from planner.runs import read_runs

SWEEPS = Path(__file__).parents[2] / "sweeps"
RECORDED = [
    "medicine", "medicine/long", "medicine/lora", "medicine/repeats", "computing", "computing/long", "computing/replay", "nature", "nature/repeats",
    "three/medicine", "three/computing", "three/nature",
]  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_sweep_would_train_the_same_runs(name: str) -> None:
    spec, rows = read_sweep(SWEEPS / name), read_runs(SWEEPS / name / "runs.csv").set_index("run_id")
    caps = [int(cap) for cap in re.findall(r"-u(\d+)-", " ".join(rows.index))]
    vocab = int(rows["vocab_size"].iloc[0])
    cells, _ = spec.cells(vocab, max(caps))
    tree = build_tree(cells, spec.recipe, vocab)
    tips = {tip.segment_id: tip for tip in tree.tips}
    assert set(rows.index) == set(tips)
    for run, row in rows.iterrows():
        tip = tips[str(run)]
        assert str(run).startswith(row["trunk_id"]) and row["method"] == tip.method
        # Before its version 3.1 pandas may read a last digit otherwise.
        assert (row["flops"], row["learning_rate"]) == pytest.approx((tree.flops_of_run(tip), tip.learning_rate), rel=1e-15)
