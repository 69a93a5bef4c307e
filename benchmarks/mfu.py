"""Tokens per second on one device at full size: a run of `plan launch` against Hugging Face's Trainer and a loop like nanoGPT's.

All three train the same model (transformers' Qwen3, vocabulary 32k, windows of 2,048 tokens, half a million tokens per step, bfloat16, torch.compile,
fused AdamW, clipping) with the same micro-batch. The first steps are not counted. MFU is exact FLOPs (planner/flops.py) over the device's measured
matrix-product speed and, if --peak-flops is given, also over that peak. --device cpu tests the script itself, at sizes that a CPU can train.

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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, Report
from planner.allocate.budget import peak_flops
from planner.artifacts import write_artifact
from planner.corpus.store import KIND, VERSION
from planner.design.cells import Cell
from planner.design.tree import build_tree
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.train.full.metrics import FILE, read_metrics
from planner.train.full.plan import FullRun, Settings
from planner.train.job import Job

STEPS, WARM = 12, 4
"""Steps of a measurement, and how many of them at the beginning are not counted."""
RATE = 1e-4
WAYS = ("ours", "trainer", "nanogpt")


@dataclass(frozen=True)
class Setting:
    """The models, the recipe and the device of a measurement."""

    device: str
    sizes: tuple[float, ...]
    vocab: int
    recipe: Recipe
    micro_batch: int

    @property
    def precision(self) -> str:
        """Precision of the full-size run."""
        return "bf16" if self.device == "cuda" else "fp32"


SETTINGS = {
    "cuda": Setting("cuda", (125e6, 350e6, 1.3e9), 32768, Recipe(seq_len=2048, batch_sequences=256, lr_coefficient=RATE, warmup_steps=1), 8),
    "cpu": Setting("cpu", (1e5, 4e5), 1024, Recipe(lr_coefficient=RATE, warmup_steps=1), 4),
}


def main() -> None:
    """Run and print, or be the process of one measurement."""
    if len(sys.argv) > 1 and sys.argv[1] == "process":
        way, device, size, corpus = sys.argv[2:]
        warnings.simplefilter("ignore")
        measure = {"ours": ours, "trainer": trainer, "nanogpt": nanogpt, "peak": peak}[way]
        print(measure(SETTINGS[device], float(size), Path(corpus)))
        return
    report = Report(__file__, __doc__, options)
    asked, setting = report.options, SETTINGS[report.options.device]
    if asked.micro_batch:
        setting = replace(setting, micro_batch=asked.micro_batch)
    sheet = None if asked.peak_flops is None else peak_flops(asked.peak_flops)
    sizes = setting.sizes[:1] if report.quick else setting.sizes
    with tempfile.TemporaryDirectory() as name:
        corpus = make_text(Path(name), setting.vocab)
        product = spoken("peak", setting, 0, corpus)
        stated = f", data sheet {sheet / 1e12:.4g}" if sheet else ""
        report.say(f"{device_name(setting.device)}: matrix product {product / 1e12:.4g} TFLOP/s{stated}")
        rows = []
        for size in sizes:
            shape = shape_for(size, family=setting.recipe.family, vocab=setting.vocab)
            speeds = [spoken(way, setting, size, corpus) for way in WAYS]
            cost = flops_per_token(shape, setting.recipe.seq_len)
            share = [" and ".join(f"{100 * speed * cost / peak:.1f}" for peak in (sheet, product) if peak) for speed in speeds]
            shown = [f"{speed:,.0f} ({of} %)" for speed, of in zip(speeds, share, strict=True)]
            rows.append([f"{shape.params_total / 1e6:,.4g}M", *shown, f"{speeds[0] / max(speeds[1:]):.2f}"])
    of = "the data sheet's peak, and of the matrix product" if sheet else "the matrix product"
    report.table(f"tokens a second, median of {STEPS - WARM} steps (share of {of})", ["parameters", *WAYS, "ours/best"], rows)
    report.end()


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--device", choices=sorted(SETTINGS), default="cuda")
    parser.add_argument("--peak-flops", help="the device's peak in bfloat16: a kind such as H100, or FLOP/s")
    parser.add_argument("--micro-batch", type=int, help="sequences of a forward pass")


def spoken(way: str, setting: Setting, size: float, corpus: Path) -> float:
    """Measure in a new process, so that each starts with an empty device; return the last number it prints."""
    command = [sys.executable, "-m", "benchmarks.mfu", "process", way, setting.device, f"{size:g}", str(corpus)]
    environment = {**os.environ, "MICRO_BATCH": str(setting.micro_batch)}
    return float(subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def make_text(folder: Path, vocab: int) -> Path:
    """Build a corpus of random tokens; speed does not depend on the text."""
    random, count = np.random.default_rng(0), 8_000_000
    for domain in ("general", "special"):
        (folder / domain).mkdir()
        for split in ("train", "heldout"):
            random.integers(0, vocab, count).astype("uint16").tofile(folder / domain / f"{split}.bin")
            np.save(folder / domain / f"{split}.offsets.npy", np.arange(0, count + 1, 1000))
    many = {"documents": count // 1000, "tokens": count, "bytes": 4 * count}
    entry = {f"{what}_{split}": number for what, number in many.items() for split in ("train", "heldout")}
    body = {"fingerprint": "0", "vocab_size": vocab, "dtype": "uint16", "token_ids": {}, "domains": {"general": entry, "special": entry}}
    write_artifact(folder / "corpus.json", KIND, VERSION, body)
    return folder


def ours(setting: Setting, size: float, corpus: Path) -> float:
    """Train as a rank of `plan launch` does, including states, metrics and guards."""
    import torch

    from planner.train.allocator import tune_allocator
    from planner.train.full.loop import Training
    from planner.train.full.mesh import join

    tune_allocator()
    torch.set_num_threads(1)
    recipe, micro = setting.recipe, int(os.environ["MICRO_BATCH"])
    tree = build_tree([Cell(size, 0, float(STEPS * recipe.tokens_per_step), 0.0, None)], recipe, setting.vocab)
    segment = replace(tree.segments[-1], first_step=0, parent_id=None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = Job(segment, recipe, folder, None, folder / "end.safetensors", corpus, "special", 0, 0.0, {"corpus": "0"}, device=setting.device)
        run = FullRun((job,), Settings(setting.device, 1, setting.precision, micro, "inductor", save_every=10**6))
        training = Training(run, folder, join(run.settings, os.environ), stop=lambda: False)
        training.go()
        training.close()
        speeds = [line["tokens_per_second"] for line in read_metrics(folder / FILE) if line["kind"] == "step"]
    return float(np.median(speeds[WARM:]))


def device_name(device: str) -> str:
    """Return the name of the device."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads of a CPU"


def peak(setting: Setting, size: float, corpus: Path) -> float:
    """Return the speed of the device's matrix product [FLOP/s]."""
    import torch

    side, width = (8192, torch.bfloat16) if setting.device == "cuda" else (1024, torch.float32)
    torch.set_num_threads(1)
    a, b = (torch.randn(side, side, device=setting.device, dtype=width) for _ in range(2))
    seconds = timed(lambda: a @ b, setting.device)
    return 2 * side**3 / float(np.median(seconds))


def timed(step: Callable[[], object], device: str, count: int = STEPS) -> list[float]:
    """Return the seconds of each call after the first few, with the device synchronised."""
    import torch

    took = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return took[WARM:]


def _model(setting: Setting, size: float):
    from planner.train.model import build_model

    return build_model(shape_for(size, family=setting.recipe.family, vocab=setting.vocab), setting.recipe, 0).to(setting.device)


def nanogpt(setting: Setting, size: float, corpus: Path) -> float:
    """Train in a loop like nanoGPT's train.py: fp32 weights under autocast, the whole model compiled, gradients accumulated over micro-batches."""
    import torch

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    recipe, micro = setting.recipe, int(os.environ["MICRO_BATCH"])
    tokens, length = np.memmap(corpus / "general" / "train.bin", dtype="uint16", mode="r"), recipe.seq_len
    model, random, passes = _model(setting, size), np.random.default_rng(0), recipe.batch_sequences // micro
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bf16"):
            logits = model(input_ids=x).logits
            return torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)).float(), y.reshape(-1))

    compiled = torch.compile(loss_of)

    def step() -> None:
        for _ in range(passes):
            at = random.integers(0, len(tokens) - length - 1, micro)
            pair = (torch.stack([torch.from_numpy(tokens[i + late : i + late + length].astype(np.int64)) for i in at]) for late in (0, 1))
            x, y = (part.to(setting.device, non_blocking=True) for part in pair)
            (compiled(x, y) / passes).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return recipe.tokens_per_step / float(np.median(timed(step, setting.device)))


def trainer(setting: Setting, size: float, corpus: Path) -> float:
    """Train with Hugging Face's Trainer, compiled, without logging, saving or evaluation."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(1)
    recipe, micro = setting.recipe, int(os.environ["MICRO_BATCH"])
    tokens, length = np.memmap(corpus / "general" / "train.bin", dtype="uint16", mode="r"), recipe.seq_len

    class Windows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return (len(tokens) - 1) // length

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            window = torch.from_numpy(tokens[index * length : (index + 1) * length].astype(np.int64))
            return {"input_ids": window, "labels": window}

    ends: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if setting.device == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=micro, gradient_accumulation_steps=recipe.batch_sequences // micro, max_steps=STEPS,
            learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.1, max_grad_norm=1.0, logging_strategy="no", save_strategy="no",
            report_to=[], use_cpu=setting.device == "cpu", bf16=setting.precision == "bf16", disable_tqdm=True, optim="adamw_torch_fused", seed=0,
            torch_compile=True, dataloader_num_workers=2 if setting.device == "cuda" else 0,
        )  # fmt: skip
        Trainer(_model(setting, size), arguments, train_dataset=Windows(), callbacks=[Watch()]).train()
    return recipe.tokens_per_step / float(np.median(np.diff(ends)[WARM - 1 :]))


if __name__ == "__main__":
    main()
