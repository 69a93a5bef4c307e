"""What the tests of training share: tiny checkpoints of several families, sweeps laid out in a folder, and an engine in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.corpus.build import build_corpus
from planner.corpus.config import Source
from planner.corpus.store import Corpus
from planner.engines.event import Event
from planner.train.job import Job
from tests.conftest import settings

RECIPE = """
[recipe]
seq_len = 32
batch_sequences = 2
warmup_steps = 20
lr_coefficient = 4e-3
lora_rank = 4
"""
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
WORDS = [f"{first}{second}" for first in "bcdfghklmn" for second in ("ard", "ole", "ine", "ust", "ewt", "ock", "ift", "ane", "umb", "orn")]
COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}


class InlineEngine:
    """Runs jobs here, one after the other: no process to start."""

    def __init__(self) -> None:
        self.trained: list[str] = []

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[Event]:
        from planner.train.segment import run_segment

        while (job := next_job()) is not None:
            self.trained.append(job.segment.segment_id)
            yield Event("finished", job, result=run_segment(job))


def checkpoint(folder: Path, corpus: Corpus, kind: str = "llama", **settings: Any) -> Path:
    """Save a small random checkpoint of a family, with the corpus's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)  # of models so small, and threads that wait for one another on a busy machine take minutes
    torch.manual_seed(0)
    known = {"vocab_size": corpus.vocab_size + 4, "num_key_value_heads": 1, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 0}
    if kind in ("qwen3",):
        known["head_dim"] = 16
    config = AutoConfig.for_model(kind, **{**COMMON, **known, "pad_token_id": None, **settings})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in corpus.tokenizer_path.iterdir():
        shutil.copy2(file, folder / file.name)
    return folder


def paired_corpus(text_folder: Path, folder: Path, pairs: Sequence[tuple[str, str]], name: str) -> Corpus:
    """Build a corpus of the general text and a domain of pairs of prompt and response."""
    lines = [{"prompt": prompt, "response": response} for prompt, response in pairs]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stated = settings(text_folder)
    sources = (stated.sources[0], Source(name, "pairs", str(folder / "pairs.jsonl")))
    return build_corpus(replace(stated, sources=sources, near_duplicates=False, chat_template=TEMPLATE), folder / "corpus")[0]


def lay_out(folder: Path, corpus: Corpus, text: str, recipe: str = RECIPE) -> Path:
    """Write a sweep's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.toml").write_text(f'corpus = "{corpus.folder.resolve()}"\neval_tokens = 640\n{text}\n{recipe}')
    return folder
