"""What a tree of runs costs against training every cell alone, on the recorded grids, and whether cells come out the same both ways.

The cost is counted: FLOPs of every segment once, against those of every endpoint's whole path, evaluation included in both. Then cells of a tiny
sweep on text that comes with Python are trained both ways: all in one tree, and each alone in a sweep of its own; and once more alone with another
seed, for what a difference is worth.
"""

from __future__ import annotations

import sysconfig
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, Report
from planner.corpus.build import build_corpus
from planner.corpus.config import CorpusSettings, Source, TokenizerSettings
from planner.design.spec import read_sweep
from planner.design.tree import build_tree
from planner.engines.local import LocalEngine
from planner.runs import read_runs
from planner.sweep import Sweep, run_sweep

RECORDED = (
    "medicine", "medicine/long", "medicine/repeats", "computing", "computing/long", "computing/repeats", "computing/replay", "nature", "nature/long",
    "nature/behind", "nature/before", "nature/repeats", "scripture", "three/medicine", "three/computing", "three/nature",
)  # fmt: skip
VOCAB, AVAILABLE = 1024, 1e9
SWEEP = """
corpus = "corpus"
eval_tokens = "20k"
[[grid]]
sizes = ["10k"]
tokens_pt = ["60k", "120k"]
tokens_spec = [0, "60k", "120k"]
unique_spec = ["15k"]
[recipe]
seq_len = 64
batch_sequences = 4
warmup_steps = 20
"""


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    rows = []
    shared: dict[str, float] = {}
    for name in RECORDED:
        spec = read_sweep(ROOT / "sweeps" / name)
        cells, _ = spec.cells(VOCAB, AVAILABLE)
        tree = build_tree(cells, spec.recipe, VOCAB, eval_tokens=spec.eval_tokens)
        rows.append([name, len(tree.tips), len(tree.segments), tree.flops_total, tree.flops_cell_by_cell])
        if name.startswith("three/"):
            shared |= {item.segment_id if item.shareable else f"{name}/{item.segment_id}": tree.cost(item) for item in tree.segments}
    three = [sum(row[at] for row in rows if row[0].startswith("three/")) for at in (1, 4)]
    rows.append(["three, trunks trained once", three[0], len(shared), sum(shared.values()), three[1]])
    alone = [row for row in rows if not row[0].startswith("three/")]
    for domain in ("medicine", "computing", "nature"):  # each as it was trained: no trunk is shared between sweeps
        grids = [row for row in rows if row[0].split("/")[0] == domain]
        rows.append([f"all of {domain}", *(sum(row[at] for row in grids) for at in range(1, 5))])
    rows.append(["all recorded", *(sum(row[at] for row in alone) for at in range(1, 5))])
    rows = [[*row[:3], f"{row[3]:.3g}", f"{row[4]:.3g}", f"{row[4] / row[3]:.2f}"] for row in rows]
    report.table("FLOPs of the recorded grids", ["sweep", "endpoints", "segments", "as a tree", "cell by cell", "ratio"], rows)
    with tempfile.TemporaryDirectory() as folder:
        both_ways(report, Path(folder))
    report.end()


def both_ways(report: Report, folder: Path) -> None:
    """Train cells in a tree and alone."""
    make_corpus(folder)
    (folder / "sweep.toml").write_text(SWEEP)
    whole = Sweep.open(folder)
    run_sweep(whole, LocalEngine(1))
    together = read_runs(folder / "runs.csv").set_index("run_id")
    rows = []
    for cell in whole.cells:
        found = {}
        for seed in (0, 1):
            alone = replace(whole.spec, folder=folder / f"alone-{len(rows)}-{seed}", grids=(), listed=(replace(cell, seed=seed),))
            tree = build_tree(alone.listed, alone.recipe, whole.corpus.vocab_size, eval_tokens=alone.eval_tokens)
            sweep = Sweep(alone, whole.corpus, whole.domain, alone.listed, {}, tree)
            run_sweep(sweep, LocalEngine(1))
            found[seed] = read_runs(alone.folder / "runs.csv").iloc[0]
        shared = float(together.loc[found[0]["run_id"], "loss_spec"])
        off = 100 * (float(found[0]["loss_spec"]) / shared - 1)
        seeds = 100 * (float(found[1]["loss_spec"]) / shared - 1)
        rows.append([found[0]["run_id"], f"{shared:.6f}", f"{found[0]['loss_spec']:.6f}", f"{off:+.4f} %", f"{seeds:+.2f} %"])
    report.table("Specialist loss of cells trained both ways", ["cell", "in the tree", "alone", "difference", "another seed, alone"], rows)
    off, seeds = ([abs(float(row[column].split()[0])) for row in rows] for column in (3, 4))
    report.say(f"largest difference {max(off):.4f} %; between seeds {np.mean(seeds):.2f} % on average")


def make_corpus(folder: Path) -> None:
    """Build a corpus of Python's language reference and its e-mail package."""
    from pydoc_data.topics import topics

    (folder / "general").mkdir()
    (folder / "special").mkdir()
    for name, text in topics.items():
        (folder / "general" / f"{name}.txt").write_text(text, encoding="utf-8")
    for path in sorted((Path(sysconfig.get_path("stdlib")) / "email").glob("*.py")):
        for number, part in enumerate(path.read_text(encoding="utf-8").split("\n\n\n")):
            if len(part) > 200:
                (folder / "special" / f"{path.stem}-{number}.txt").write_text(part, encoding="utf-8")
    sources = (Source("general", "txt", "general"), Source("mail", "txt", "special"))
    build_corpus(CorpusSettings(folder, sources, TokenizerSettings(vocab_size=300), heldout_fraction=0.1), folder / "corpus")


if __name__ == "__main__":
    main()
