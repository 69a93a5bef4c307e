"""Draw the learning-rate basins: the probes that the rule was fitted to (tune.json) and those of larger models (probes_large.json).

    python sweeps/medicine/draw_rates.py
"""

from __future__ import annotations

from pathlib import Path

from planner.artifacts import read_artifact
from planner.report.learning_rates import learning_rates
from planner.report.style import save

FOLDER = Path(__file__).parent


def main() -> None:
    """Draw the figure."""
    tuning, large = read_artifact(FOLDER / "tune.json", "tuning", 1), read_artifact(FOLDER / "probes_large.json", "probes", 1)
    sizes = sorted({probe["params_non_embedding"] for probe in large["probes"]})
    tuning["probes"] += large["probes"]
    tuning["optima"] += [{"params_non_embedding": size} for size in sizes]
    save(FOLDER / "figures" / "learning_rates.png", lambda axes: learning_rates(axes[0], tuning))


if __name__ == "__main__":
    main()
