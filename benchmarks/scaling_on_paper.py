"""The full-size run on paper, up to 10,000 GPUs and 1e26 FLOPs: memory, traffic, states, failures, and the cost of the data's order.

Nothing here ran on a GPU. Speeds of devices, links and disks are assumptions, printed in the output and set by options; what is marked as measured was
measured on this machine's CPU. The purpose is to find what breaks first.
"""

from __future__ import annotations

import argparse
import math
import pickle
import time

import numpy as np

from benchmarks.common import Report
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.method import Method
from planner.train.full.mesh import PATIENCE
from planner.train.order import SHUFFLED_IN_MEMORY, Batches, Stream
from planner.train.size import memory, saved_bytes
from planner.units import format_bytes, format_count, format_seconds

CASES = ((8, 1e21), (128, 1e23), (1024, 1e24), (10_000, 1e26))
"""GPUs and FLOPs of a run."""
TOKENS_PER_PARAM = 20.0
VOCAB, SEQ_LEN = 128_256, 8192
FAILURES = 419 / (54 * 24 * 16_384)
"""Unexpected interruptions per GPU-hour: 419 in 54 days on 16,384 GPUs (arXiv 2407.21783, section 3.3.4)."""
OPEN_SECONDS = 1e-3
"""Seconds to open a file and read its header on a parallel file system."""
GATHERED, REDUCED = 2 + 2, 4
"""Bytes per parameter that FSDP moves to each rank per pass: gathered in bf16 forward and backward, its gradient reduced in fp32."""


class Text:
    """Stands in for a token file of any length; every window is zeros."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return self._tokens

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.zeros(part.stop - part.start, dtype=np.uint32)


def main() -> None:
    """Print the tables."""

    def speeds(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--peak", type=float, default=989e12, help="of a GPU in bf16 [FLOP/s]; an H100's data sheet")
        parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that computing reaches")
        parser.add_argument("--link", type=float, default=50e9, help="of a GPU to the others [bytes/s]; 400 Gbit/s")
        parser.add_argument("--disk", type=float, default=500e9, help="of the file system, all ranks together [bytes/s]")
        parser.add_argument("--again", type=float, default=120, help="from a failure until all ranks run again, with nothing read [s]")
        parser.add_argument("--host", type=float, default=20e9, help="from a GPU to its host [bytes/s]")

    report = Report(__file__, __doc__, speeds)
    told = report.options
    report.say(
        f"assumed: {told.peak:.3g} FLOP/s a GPU at {told.mfu:.0%}, {format_bytes(told.link)}/s between GPUs, {format_bytes(told.disk)}/s to disk in all, "
        f"{format_bytes(told.host)}/s to the host, {format_seconds(told.again)} from a failure until all ranks run again; "
        f"{TOKENS_PER_PARAM:g} tokens a parameter, sequences of {SEQ_LEN}, vocabulary {VOCAB}"
    )
    shapes = [shape_for(math.sqrt(flops / (6 * TOKENS_PER_PARAM)), family="qwen3", vocab=VOCAB) for _, flops in CASES]
    tokens = [flops / flops_per_token(shape, SEQ_LEN) for shape, (_, flops) in zip(shapes, CASES, strict=True)]
    runs = list(zip(CASES, shapes, tokens, strict=True))

    rows = []
    for (ranks, flops), shape, count in runs:
        need = memory(shape, SEQ_LEN, 1, shards=ranks, precision="bf16", checkpoint_activations=True, method=Method())
        parts = [format_bytes(value) for value in (need.states, need.gathered, need.activations, need.logits, need.total)]
        took = format_seconds(flops / (ranks * told.peak * told.mfu))
        rows.append([f"{ranks} GPUs, {flops:.0e}", format_count(shape.params_total), format_count(count), *parts, took])
    report.table(
        "Memory of a GPU, one sequence a pass, activations computed again; time at the assumed speed",
        ["", "parameters", "tokens", "states", "gathered", "activations", "logits", "together", "time"], rows,
    )  # fmt: skip

    rows = []
    hidden = (GATHERED + REDUCED) / told.link * told.mfu * told.peak / 6
    for (ranks, flops), shape, count in runs:
        moved = (GATHERED + REDUCED) * shape.params_total
        computing = flops_per_token(shape, SEQ_LEN) * SEQ_LEN / (told.peak * told.mfu)
        batch = ranks * SEQ_LEN
        rows.append([
            f"{ranks} GPUs, {flops:.0e}", format_bytes(moved), format_seconds(moved / told.link), format_seconds(computing), format_count(batch),
            format_count(count / batch), format_count(ranks * hidden),
        ])  # fmt: skip
    report.table(
        "Traffic of a pass of one sequence, and the batch that it asks for",
        ["", "moved to each GPU", "takes", "computing takes", "least batch [tokens]", "steps", "batch that hides it"], rows,
    )  # fmt: skip
    report.say(f"computing hides the traffic from {hidden:,.0f} tokens a GPU and pass on, whatever the model's size")

    rows = []
    for (ranks, flops), shape, _ in runs:
        size = saved_bytes(shape, Method())
        between = 1 / (FAILURES * ranks) * 3600
        # Training waits only for the copy to the host; writing to disk overlaps with training.
        waits = size / ranks / told.host
        best = math.sqrt(2 * waits * between)
        every = max(best, size / told.disk)  # a state must be on disk before the next one starts
        # All ranks restart and read the state; the weights are not initialised first (planner/train/full/loop.py).
        again = told.again + ranks * OPEN_SECONDS + size / told.disk
        lost = (every / 2 + again) / between + waits / every
        pieces = 3 * (11 * shape.layers + 3) * ranks
        rows.append([
            f"{ranks} GPUs, {flops:.0e}", format_bytes(size), format_bytes(size / ranks), f"{waits:.3f} s",
            *(format_seconds(value) for value in (size / told.disk, between, every, again)), f"{lost:.2%}",
            format_seconds(ranks * OPEN_SECONDS), format_count(pieces),
        ])  # fmt: skip
    report.table(
        "States: weights and moments in fp32, one file a rank",
        [
            "", "a state", "a rank", "training waits", "written in", "a failure every", "best to save every", "a restart", "lost",
            "headers, first rank", "pieces planned",
        ],
        rows,
    )  # fmt: skip
    piece = piece_bytes()
    most = 3 * (11 * shapes[-1].layers + 3) * CASES[-1][0]
    report.say(
        f"torch plans a state on one rank: {piece:.0f} bytes a piece (measured), {format_bytes(piece * most)} of plans gathered at {CASES[-1][0]} ranks; "
        f"if every rank opened every file instead of the first alone, reading would open {CASES[-1][0] ** 2:.0e} files"
    )

    rows = []
    for (ranks, flops), shape, _ in runs:
        host = 4.0 * shape.params_total
        rows.append([f"{ranks} GPUs, {flops:.0e}", format_bytes(host), format_seconds(host / told.link), format_seconds(shape.params_total / drawn())])
    title = "Starting for the first time: the model is drawn on the first rank's host and handed on layer by layer"
    report.table(title, ["", "host memory", "handed on in", "drawn in (measured rate)"], rows)

    order(report)
    report.say("\nWhat breaks first:")
    ranks, large = CASES[-1][0], shapes[-1]
    need = memory(large, SEQ_LEN, 1, shards=ranks, precision="bf16", checkpoint_activations=True, method=Method())
    for line in (
        f"- the batch: {ranks} ranks that only share data need {ranks} sequences a step, {format_count(ranks * SEQ_LEN)} tokens; Llama 3 405B was trained",
        "  at 16M (arXiv 2407.21783). Beyond about 1,000 ranks a run needs tensor, context or pipeline parallelism, which this trainer lacks: --export",
        f"- the GPU: one sequence of {SEQ_LEN} through {format_count(large.params_total)} parameters takes {format_bytes(need.total)} on each of them",
        f"- the host: that model is drawn in {format_bytes(4.0 * large.params_total)} on one host, once, and the other ranks wait for "
        f"{format_seconds(PATIENCE.total_seconds())} at most",
        "- the plan of a state at 10,000 ranks: gathered and pickled between the ranks by torch, on one of them",
        "- the corpus: one file of tokens a split, which every rank maps; 10T tokens are 40 TB",
    ):
        report.say(line)
    report.end()


def order(report: Report) -> None:
    """Measure the cost of finding and reading a window, by the size of the corpus."""
    rows = []
    for tokens in (10**8, 10**10, 10**11, 10**13):
        for seq_len in (2048, 8192):
            windows = tokens // seq_len
            stream = Stream(Text(tokens), seq_len, 0, "general")  # type: ignore[arg-type]
            batches = Batches(stream, 1)
            began = time.perf_counter()
            batches.rows(0, 1)
            first = time.perf_counter() - began
            count = 500 if report.quick else 5000
            began = time.perf_counter()
            for row in range(1, count, 8):
                batches.rows(row, row + 8)
            each = (time.perf_counter() - began) / len(range(1, count, 8)) / 8
            kind = "array" if windows <= SHUFFLED_IN_MEMORY else "formula"
            held = format_bytes(8 * windows) if kind == "array" else "0 B"
            rows.append([
                f"{format_count(tokens)} tokens, sequences of {seq_len}", format_count(windows), kind, held, format_bytes(8 * windows), f"{first:.3f} s",
                f"{1e6 * each:.0f} us", f"{1e3 * each * 16:.2f} ms",
            ])  # fmt: skip
    report.table(
        "Order of the data, measured on this CPU: the text itself is zeros, so what is read from disk comes on top",
        ["", "windows", "order by", "memory", "as an array", "first window of a pass", "a window", "16 windows of a rank"], rows,
    )  # fmt: skip


def piece_bytes() -> float:
    """Measure the pickled size of one piece of a save plan."""
    import torch
    from torch.distributed.checkpoint.planner_helpers import _create_write_items

    items = [_create_write_items(f"exp_avg_sq.model.layers.{at}.self_attn.q_proj.weight", torch.zeros(4, 4)) for at in range(100)]
    return len(pickle.dumps(items)) / 100


def drawn() -> float:
    """Measure how many normal numbers per second torch draws on one thread, in order, as the initialisation does."""
    import torch

    torch.set_num_threads(1)
    began = time.perf_counter()
    torch.randn(1 << 24, generator=torch.Generator().manual_seed(0))
    return (1 << 24) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
