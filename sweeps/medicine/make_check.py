"""Write check/sweep.toml: splits of one budget, 4 times the sweep's largest run, to compare a recommendation with.

    python sweeps/medicine/make_check.py && plan sweep run sweeps/medicine/check
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from planner.design.spec import read_sweep
from planner.flops import flops_per_token
from planner.ladder import shape_for

FACTOR = 4.0
UNIQUE_SPEC = 200_000
SPLITS = {
    320_000: (0, 410_000, 820_000, 1_230_000, 1_640_000, 2_460_000),
    560_000: (410_000, 820_000, 1_230_000, 1_640_000, 2_460_000),
    960_000: (205_000, 410_000, 820_000, 1_230_000, 1_640_000),
}
"""Specialist tokens tried at each size; the rest of the budget goes to general text."""


def main() -> None:
    """Write the file."""
    folder = Path(__file__).parent
    runs, recipe = pd.read_csv(folder / "runs.csv"), read_sweep(folder).recipe
    budget = FACTOR * float(runs["flops"].max())
    vocab = int(runs["vocab_size"].iloc[0])
    lines = [f"# Written by ../make_check.py: {budget:.4g} FLOPs a run, {FACTOR:g} times the largest of the sweep.", ""]
    lines += ['name = "medicine-check"', 'corpus = "../corpus"', 'domain = "medicine"', f"unique_spec = [{UNIQUE_SPEC}]", ""]
    for size, amounts in SPLITS.items():
        total = budget / flops_per_token(shape_for(size, family=recipe.family, vocab=vocab), recipe.seq_len)
        for spec in amounts:
            lines += ["[[grid]]", f"sizes = [{size}]", f"tokens_pt = [{round(total - spec)}]", f"tokens_spec = [{spec}]", ""]
    table = (folder / "sweep.toml").read_text(encoding="utf-8")
    lines.append(table[table.index("[recipe]") :].rstrip())
    (folder / "check" / "sweep.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
