"""How well a run's final loss is forecast from the losses during its cooldown, and how much the cooldown lowers the loss.

Small runs go through the loop of `plan launch`, with held-out losses at evenly spaced steps. At each loss in the cooldown the final loss is extrapolated
from the line through the losses so far and compared with the outcome. The settings of `planner.train.full.forecast_curve` were chosen on the runs of the
first two tables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.common import Report
from benchmarks.tree import make_corpus
from planner.design.tree import build_tree
from planner.launch.full import lay_run, settle
from planner.runs import read_run
from planner.sweep import Sweep
from planner.train.full.forecast_curve import extrapolate
from planner.train.full.main import train
from planner.train.full.metrics import FILE, read_metrics
from planner.train.full.plan import Settings

SWEEP = """
corpus = "corpus"
eval_tokens = "20k"
[[grid]]
sizes = ["10k", "20k", "40k"]
tokens_pt = ["60k", "120k", "240k"]
tokens_spec = ["60k", "120k"]
unique_spec = ["15k", "60k"]
[recipe]
seq_len = 64
batch_sequences = 4
warmup_steps = 20
"""
OTHERS = """
corpus = "corpus"
eval_tokens = "20k"
[[grid]]
sizes = ["15k", "80k"]
tokens_pt = [0, "200k"]
tokens_spec = ["90k", "250k"]
unique_spec = ["30k", "80k"]
seeds = [1]
[recipe]
family = "llama"
seq_len = 128
batch_sequences = 4
warmup_steps = 20
cooldown_fraction = 0.15
"""
FRESH = """
corpus = "corpus"
eval_tokens = "20k"
[[grid]]
sizes = ["25k", "60k"]
tokens_pt = ["150k"]
tokens_spec = ["80k", "200k"]
unique_spec = ["25k", "60k"]
seeds = [2, 3]
[recipe]
seq_len = 64
batch_sequences = 6
warmup_steps = 20
cooldown_fraction = 0.2
"""
MOST = 12
"""Losses measured in a cooldown; as many are measured before it."""
FEWER = (12, 6, 3)
"""How many of the losses in a cooldown are used."""


@dataclass(frozen=True)
class Run:
    """The losses of one run."""

    before: list[float]
    """The last two losses before the cooldown."""
    cooling: list[tuple[float, float]]
    """Learning rate as a share of the peak, and loss, in the cooldown."""
    end: float


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    columns = ["losses in the cooldown", "so far", "mean error %", "bias %", "inside their 90 % interval", "half of its width %"]
    tables = {
        "Runs that the settings were chosen on": SWEEP, "And these, of another family, batch and length of the cooldown": OTHERS, "Fresh runs": FRESH,
    }  # fmt: skip
    for title, sweep in tables.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = list(_runs(Path(folder), sweep, report.quick))
        taken = [100 * (run.before[-1] / run.end - 1) for run in runs]
        report.table(title, columns, [row for count in FEWER for row in _rows(runs, count)])
        report.say(f"cooling down took off {min(taken):.1f} to {max(taken):.1f} % of the end's loss")
    report.end()


def _runs(folder: Path, sweep: str, quick: bool) -> Iterator[Run]:
    make_corpus(folder)
    (folder / "sweep.toml").write_text(sweep)
    whole = Sweep.open(folder)
    for number, cell in enumerate(whole.cells[:4] if quick else whole.cells):
        spec = replace(whole.spec, folder=folder / str(number), grids=(), listed=(cell,))
        tree = build_tree(spec.listed, spec.recipe, whole.corpus.vocab_size, eval_tokens=spec.eval_tokens)
        full = settle(Sweep(spec, whole.corpus, whole.domain, spec.listed, {}, tree), 1, Settings(save_every=10**6))
        start, steps = full.cooldown_from, full.steps
        before = [round(start * (k + 1) / MOST) for k in range(MOST)]
        within = [round(start + (steps - start) * (k + 1) / (MOST + 1)) for k in range(MOST)]
        full = replace(full, settings=replace(full.settings, evaluate_at=tuple(sorted({*before, *within}))))
        lay_run(spec.folder, full, None)
        train(spec.folder, lambda: False)  # type: ignore[arg-type]
        lines = [line for line in read_metrics(spec.folder / FILE) if line["kind"] == "evaluation"]
        (record,) = (spec.folder / "records").iterdir()
        constant = [line["loss_spec"] for line in lines if line["rate_share"] >= 1 and line["step"] > full.offsets[-2]]
        cooling = [(line["rate_share"], line["loss_spec"]) for line in lines if line["rate_share"] < 1 and line["step"] > start]  # excludes the warm-up
        yield Run(constant[-2:], cooling, float(read_run(record)["row"]["loss_spec"]))


def _rows(runs: Sequence[Run], count: int) -> Iterator[list[str]]:
    """Summarise the forecasts of the final loss from the first of `count` losses, the first two, and so on."""
    chosen = [round((k + 1) * (MOST + 1) / (count + 1)) - 1 for k in range(count)]
    for so_far in range(1, count + 1):
        told = [extrapolate([(1.0, float(np.mean(run.before))), *(run.cooling[at] for at in chosen[:so_far])]) for run in runs]
        ends = np.array([run.end for run in runs])
        off, width = (100 * values / ends for values in (np.array([middle for middle, _ in told]) - ends, np.array([error for _, error in told])))
        inside = f"{(np.abs(off) <= width).sum()} of {len(runs)}"
        yield [str(count), str(so_far), f"{np.abs(off).mean():.2f}", f"{off.mean():+.2f}", inside, f"{width.mean():.2f}"]


if __name__ == "__main__":
    main()
