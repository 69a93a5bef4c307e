"""What a segment trains before its parent's state is read into it."""

from __future__ import annotations

import torch

from planner.corpus import Corpus
from planner.train.job import Job
from planner.train.model import build_model


def start_model(job: Job, corpus: Corpus) -> torch.nn.Module:
    """Return the model of a segment, in fp32 on the CPU, as it is when its run begins."""
    return build_model(job.segment.shape, job.recipe, job.segment.seed, token_ids=corpus.token_ids)
