"""Aggregate training speed of a sweep on this machine, against the same models under Hugging Face's Trainer and in a loop like nanoGPT's.

Three ways to train the same model (transformers' Qwen3, batch 8x128, vocabulary 1024, AdamW, clipping), each as one process with all cores, which is
how Trainer and nanoGPT are usually run, and as one process per core with one thread each, which is how a sweep runs. Ours is `run_segment`, as a worker
of `plan sweep run` calls it. Tokens per second are counted after a warm-up and summed over all processes. The share of the peak is relative to the
machine's own matrix product: fp32, 1024 x 1024, the same threads, by MKL or oneDNN, whichever is faster. FLOPs are exact, see planner/flops.py.
Everything is also measured through torch.compile, which a sweep uses for models that train for minutes, nanoGPT by default and Trainer on request.

--contest: only the closest competitors, in turns and several times, since single measurements a minute apart differ by as much as the ways do.
--start: only the time of compiling, with nothing cached and with everything cached.

Needs `pip install accelerate` for Trainer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, ROOT, Report
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.recipe import Recipe

SIZES = (20e3, 80e3, 400e3, 1.6e6)
SECONDS = 6.0
"""Approximate length of each measurement."""
WARM = 20
"""Steps before the clock starts."""
TURNS = 6
"""Measurements of each way in a contest."""
RECIPE = Recipe()
VOCAB = 1024
RATE = 3e-3
COMPILED = " compiled"
WARM_STARTS = 5
"""New processes whose first step is measured with another process's cache."""


def main() -> None:
    """Run and print, or do the work of one measuring process."""
    if len(sys.argv) > 1 and sys.argv[1] == "process":
        return process(*sys.argv[2:])
    report = Report(__file__, __doc__, options)
    for name in ("contest", "start"):
        if getattr(report.options, name) and report.options.out == RESULTS / "training.txt":
            report.options.out = RESULTS / f"training_{name}.txt"
    cores = len(os.sched_getaffinity(0))
    layouts = {"one process": (1, cores), "one a core": (cores, 1)}
    kinds = ("ours", "trainer", "nanogpt")
    sizes = SIZES[::2] if report.quick else SIZES
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_text(Path(folder))
        if report.options.contest:
            contest(report, sizes, corpus, cores)
            return report.end()
        if report.options.start:
            start(report, sizes, corpus)
            return report.end()
        peaks = {name: run("peak", 0, corpus, *layout) for name, layout in layouts.items()}
        report.say(f"{cores} cores; fp32 matrix product: {peaks['one process'] / 1e9:.0f} GFLOP/s with {cores} threads in one process, "
                   f"{peaks['one a core'] / 1e9:.0f} GFLOP/s in {cores} processes of one thread")  # fmt: skip
        tables: dict[str, list[list[str]]] = {"": [], COMPILED: []}
        for size in sizes:
            shape = shape_for(size, family=RECIPE.family, vocab=VOCAB)
            cost = flops_per_token(shape, RECIPE.seq_len)
            speed = {(kind + way, name): run(kind + way, size, corpus, *layout) for way in tables for kind in kinds for name, layout in layouts.items()}
            usual = speed["trainer", "one process"]
            for way, rows in tables.items():
                ours = speed["ours" + way, "one a core"]
                best = max(value for (kind, _), value in speed.items() if not kind.startswith("ours") and (way or COMPILED not in kind))
                others = [f"{speed[kind + way, name] / 1e3:.1f}k" for kind in kinds[1:] for name in layouts]
                ratios = [ours / usual, ours / max(speed["trainer" + way, name] for name in layouts), ours / best]
                share = f"{100 * ours * cost / peaks['one a core']:.0f} %"
                rows.append([f"{shape.params_non_embedding / 1e3:.0f}k", f"{ours / 1e3:.1f}k", *others, *(f"{ratio:.2f}" for ratio in ratios), share])
    columns = ["parameters", "ours", *(f"{kind}, {name}" for kind in kinds[1:] for name in layouts)]
    more = ["ours/Trainer", "ours/its best", "ours/best of all", "of the peak"]
    report.table("tokens a second, all processes together", [*columns, *more], tables[""])
    report.say("ours/Trainer: as Trainer is run, one process with all cores; its best: whichever layout")
    report.say("best of all: Trainer and nanoGPT's loop, any layout, torch.compile left aside")
    report.table("the same, all through torch.compile", [*columns, *more], tables[COMPILED])
    report.say("ours/Trainer: as Trainer is run, uncompiled; its best: compiled, whichever layout")
    report.say("best of all: Trainer and nanoGPT's loop, any layout, compiled or not")
    report.end()


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--contest", action="store_true", help="only the closest, in turns")
    parser.add_argument("--start", action="store_true", help="only how long a worker takes to its first step through torch.compile")
    parser.add_argument("--turns", type=int, default=TURNS, help="measurements of each in a contest; six take 26 minutes")


def contest(report: Report, sizes: Sequence[float], corpus: Path, cores: int) -> None:
    """Measure ours, nanoGPT's loop and Trainer in turns; each ratio compares two measurements of the same turn."""
    ways = {"ours": ("ours" + COMPILED, cores, 1), "nanogpt": ("nanogpt" + COMPILED, cores, 1), "trainer": ("trainer", 1, cores)}
    rows = []
    for size in sizes:
        for kind in ("ours", "nanogpt"):
            run(kind + COMPILED, size, corpus, 1, 1)  # fills the compile cache
        turns = [[run(kind, size, corpus, *layout) for kind, *layout in ways.values()] for _ in range(report.options.turns)]
        speeds = [f"{np.median(speed) / 1e3:.1f}k" for speed in zip(*turns, strict=True)]
        ratios = [[turn[0] / turn[at] for turn in turns] for at in (1, 2)]
        shown = [f"{np.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})" for ratio in ratios]
        params = shape_for(size, family=RECIPE.family, vocab=VOCAB).params_non_embedding
        rows.append([f"{params / 1e3:.0f}k", *speeds, *shown])
    title = f"tokens a second, median of {len(turns)} turns: ours and nanoGPT's loop compiled, one process a core; Trainer as it is run, one process"
    report.table(title, ["parameters", *ways, "ours/nanogpt (least to most)", "ours/trainer (least to most)"], rows)


def start(report: Report, sizes: Sequence[float], corpus: Path) -> None:
    """Measure a worker's first step through torch.compile, with nothing cached and in new processes with the first one's cache."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            cold, *warm = (run("first step", size, corpus, 1, 1) for _ in range(1 + WARM_STARTS))
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        params = shape_for(size, family=RECIPE.family, vocab=VOCAB).params_non_embedding
        rows.append([f"{params / 1e3:.0f}k", f"{cold:.1f}", f"{np.median(warm):.2f}", f"{min(warm):.2f} to {max(warm):.2f}"])
    columns = ["parameters", "nothing cached", f"median of {WARM_STARTS} new processes", "least to most"]
    report.table("seconds of a worker's first step through torch.compile, what it imports, traces and compiles", columns, rows)


def run(kind: str, size: float, corpus: Path, processes: int, threads: int) -> float:
    """Run one measurement in processes that start together; return the sum of the numbers they print."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.training", "process", kind, f"{size:g}", str(corpus), str(threads)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with tempfile.TemporaryDirectory() as meeting:
        environment |= {"MEETING": meeting, "PROCESSES": str(processes)}
        started = [subprocess.Popen(command, cwd=ROOT, env=environment, **quiet) for _ in range(processes)]
        outputs = [item.communicate()[0] for item in started]
    return sum(float(output.split()[-1]) for output in outputs)


def meet() -> None:
    """Wait until all processes of a measurement are warm; one that still compiles would slow down the others."""
    folder = Path(os.environ["MEETING"])
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < int(os.environ["PROCESSES"]):
        time.sleep(0.01)


def process(kind: str, size: str, corpus: str, threads: str) -> None:
    """Measure one way and print tokens (for "peak": FLOPs) a second."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    if kind == "peak":
        print(peak())
        return
    ways = {"ours": ours, "trainer": trainer, "nanogpt": nanogpt, "first step": first_step}
    if kind == "first step":
        print(first_step(float(size)))
        return
    print(ways[kind.removesuffix(COMPILED)](float(size), Path(corpus), int(threads), kind.endswith(COMPILED)))


def peak() -> float:
    """Return the speed of a matrix product, torch's own or by oneDNN, whichever is faster here [FLOP/s]."""
    import torch

    from planner.train.matmul import product

    a, b, found = torch.randn(1024, 1024), torch.randn(1024, 1024), []
    for times in (torch.mm, product):
        for _ in range(5):
            times(a, b)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 2:
            times(a, b)
            count += 1
        found.append(2 * 1024**3 * count / (time.perf_counter() - started))
    return max(found)


def make_text(folder: Path) -> Path:
    """Build a corpus of random tokens; speed does not depend on the text."""
    from planner.artifacts import write_artifact
    from planner.corpus.store import KIND, VERSION

    random = np.random.default_rng(0)
    for domain in ("general", "special"):
        (folder / domain).mkdir()
        for split in ("train", "heldout"):
            random.integers(0, VOCAB, 200_000).astype("uint16").tofile(folder / domain / f"{split}.bin")
            np.save(folder / domain / f"{split}.offsets.npy", np.arange(0, 200_001, 100))
    entry = {f"{what}_{split}": count for what, count in (("documents", 2000), ("tokens", 200_000), ("bytes", 400_000)) for split in ("train", "heldout")}
    body = {"fingerprint": "0", "vocab_size": VOCAB, "dtype": "uint16", "token_ids": {}, "domains": {"general": entry, "special": entry}}
    write_artifact(folder / "corpus.json", KIND, VERSION, body)
    return folder


def ours(size: float, corpus: Path, threads: int, compiled: bool) -> float:
    """Train a segment as a sweep's worker does."""
    from planner.design.cells import Cell
    from planner.design.tree import build_tree
    from planner.train.allocator import tune_allocator
    from planner.train.job import Job
    from planner.train.segment import run_segment

    tune_allocator()
    tokens = 1e5 * RECIPE.tokens_per_step
    segment = build_tree([Cell(size, 0, tokens, tokens, 1e5)], RECIPE, VOCAB).segments[0]
    job = Job(segment, RECIPE, corpus, None, corpus / "state" / "none.safetensors", corpus, "special", 0, 0.0, {}, threads=threads, compiled=compiled)
    clock = Clock()
    try:
        run_segment(job, report=clock.at)
    except Enough:
        pass
    return clock.speed


class Enough(Exception):
    """The measurement is over."""


class Clock:
    """Counts steps from the end of the warm-up, and stops the training once there are enough."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None
        self.speed = 0.0

    def at(self, steps: int) -> None:
        """Record how many steps are done."""
        now = time.perf_counter()
        if self._start is None:
            if steps >= WARM:
                meet()
                self._start = time.perf_counter(), steps
            return
        self.speed = (steps - self._start[1]) * RECIPE.tokens_per_step / (now - self._start[0])
        if now - self._start[0] > SECONDS:
            raise Enough


def _model(size: float):
    from planner.train.model import build_model

    return build_model(shape_for(size, family=RECIPE.family, vocab=VOCAB), RECIPE, 0)


def first_step(size: float) -> float:
    """Return how much longer the first step through torch.compile, with tracing and compiling, takes than the second [s]."""
    import torch

    from planner.train.loss import compiled_loss
    from planner.train.matmul import placed

    model, words = placed(_model(size), "cpu"), torch.zeros(RECIPE.batch_sequences, RECIPE.seq_len, dtype=torch.int64)
    took = []
    for _ in range(2):
        started = time.perf_counter()
        compiled_loss()(model, words, words, True).backward()
        took.append(time.perf_counter() - started)
    return took[0] - took[1]


def trainer(size: float, corpus: Path, threads: int, compiled: bool) -> float:
    """Train with Hugging Face's Trainer, without logging, saving or evaluation."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    tokens = np.memmap(corpus / "general" / "train.bin", dtype="uint16", mode="r")

    class Windows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return (len(tokens) - 1) // RECIPE.seq_len

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            window = torch.from_numpy(tokens[index * RECIPE.seq_len : (index + 1) * RECIPE.seq_len].astype(np.int64))
            return {"input_ids": window, "labels": window}

    clock = Clock()

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            try:
                clock.at(state.global_step)
            except Enough:
                control.should_training_stop = True

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=RECIPE.batch_sequences, max_steps=10**6, learning_rate=RATE, lr_scheduler_type="constant",
            weight_decay=0.1, max_grad_norm=1.0, logging_strategy="no", save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
            optim="adamw_torch_fused", seed=0, torch_compile=compiled,
        )  # fmt: skip
        Trainer(_model(size), arguments, train_dataset=Windows(), callbacks=[Watch()]).train()
    return clock.speed


def nanogpt(size: float, corpus: Path, threads: int, compiled: bool) -> float:
    """Train in a loop like nanoGPT's train.py: random windows of a memory map, fused AdamW, clipping, the loss read every ten steps."""
    import torch

    tokens = np.memmap(corpus / "general" / "train.bin", dtype="uint16", mode="r")
    model = _model(size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    random, length = np.random.default_rng(0), RECIPE.seq_len

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=x).logits
        return torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), y.reshape(-1))

    step_loss = torch.compile(loss_of) if compiled else loss_of
    clock, step = Clock(), 0
    try:
        while True:
            at = random.integers(0, len(tokens) - length - 1, RECIPE.batch_sequences)
            x = torch.stack([torch.from_numpy(tokens[i : i + length].astype(np.int64)) for i in at])
            y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + length].astype(np.int64)) for i in at])
            for group in optimiser.param_groups:
                group["lr"] = RATE
            loss = step_loss(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            if step % 10 == 0:
                loss.item()
            clock.at(step)
    except Enough:
        return clock.speed


if __name__ == "__main__":
    main()
