"""Imports that take nearly all of a worker's start-up time, done once by the process that local workers are forked from."""
# ruff: noqa: F401

from contextlib import suppress

with suppress(Exception):  # a segment that needs a broken package reports it
    import torch._dynamo
    import transformers.models.llama.modeling_llama

    import planner.train.segment
