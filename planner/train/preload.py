"""What takes nearly all of the seconds in which a worker begins its first segment; imported by the process that local workers are forked off."""
# ruff: noqa: F401

from contextlib import suppress

with suppress(Exception):  # the segment that needs what is broken says so
    import torch._dynamo
    import transformers.models.llama.modeling_llama

    import planner.train.segment
