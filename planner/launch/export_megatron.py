"""The planned run for Megatron-LM, its main branch of August 2026: quoted arguments in a shell script."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from string import Template

from planner.launch.export_common import NORM_EPSILON, ROPE_THETA, Schedule, head, rate_source
from planner.launch.launch import Launch

_UNTIED = "\n# The output layer has a matrix of its own, which Megatron decays like the others; the recipe does not."
# No apostrophe: bash would read on to the next one, over the checks between.
_DATA = 'read -ra {0}_DATA <<< "${{{0}_DATA:?prefix of the {1} text as Megatron stores it, or weights and prefixes of several}}"'
_MIX = 'SPECIALIST_DATA="{:.6g} SPECIALIST {:.6g} GENERAL", with the two prefixes'
_MEGATRON = Template("""\
#!/bin/bash
# Written by plan launch --export megatron.
$head
# Megatron draws all matrices with one deviation, here that of hidden-size inputs; the recipe draws each with its own fan-in.$untied
set -euo pipefail
$data
CHECKPOINTS="$${CHECKPOINTS:?folder for checkpoints}"
RANKS=$ranks  # --ranks; the product of data-parallel ranks and micro-batch divides the global batch of $batch

MODEL_ARGS=(
$model
)

TRAINING_ARGS=(
$training
)

# The first stage ends at step $general_steps at a constant rate; the second goes on from its checkpoint, on other text, with the same schedule.
stage() {
    if [ "$$(cat "$$CHECKPOINTS/latest_checkpointed_iteration.txt" 2> /dev/null || echo 0)" -ge "$$1" ]; then return; fi  # ended in an earlier call
    torchrun --nproc-per-node "$$RANKS" pretrain_gpt.py "$${MODEL_ARGS[@]}" "$${TRAINING_ARGS[@]}" \\
        --train-samples $$(($$1 * $batch)) --data-path "$${@:2}" --save "$$CHECKPOINTS" --load "$$CHECKPOINTS" \\
        --save-interval 1000 --split 100,0,0 --eval-iters 0
}
$calls
""")


def megatron(launch: Launch, ranks: int, micro_batch: int) -> str:
    """Return a script that hands the run's arguments to Megatron-LM's pretrain_gpt.py, one call a stage."""
    tip, recipe, steps = launch.run.tree.tips[0], launch.run.spec.recipe, Schedule.of(launch)
    shape, batch, in_samples = tip.shape, recipe.batch_sequences, "x recipe.batch_sequences"
    # Without it the second call would begin as far into the specialist text as the first one got in the general text, and repeat some of it.
    reset = "the specialist text is read from its beginning; only beside --train-samples"
    model = [
        ("--num-layers", shape.layers, "plan.shape.layers"),
        ("--hidden-size", shape.hidden, "plan.shape.hidden"),
        ("--ffn-hidden-size", shape.intermediate, "plan.shape.intermediate"),
        ("--num-attention-heads", shape.heads, "plan.shape.heads"),
        ("--group-query-attention", None, "plan.shape.kv_heads"),
        ("--num-query-groups", shape.kv_heads, "plan.shape.kv_heads"),
        ("--kv-channels", shape.head_dim, "plan.shape.head_dim"),
        ("--seq-length", recipe.seq_len, "recipe.seq_len"),
        ("--max-position-embeddings", recipe.seq_len, "recipe.seq_len"),
        ("--position-embedding-type", "rope", "recipe.family"),
        ("--rotary-base", int(ROPE_THETA), "transformers' default of recipe.family"),
        ("--normalization", "RMSNorm", "recipe.family"),
        ("--norm-epsilon", NORM_EPSILON, "transformers' default of recipe.family"),
        *([("--qk-layernorm", None, "recipe.family = qwen3")] if shape.family == "qwen3" else []),
        ("--swiglu", None, "recipe.family"),
        ("--disable-bias-linear", None, "recipe.family"),
        *([] if shape.tied else [("--untie-embeddings-and-output-weights", None, "plan.shape.tied")]),
        ("--attention-dropout", 0.0, "recipe: none"),
        ("--hidden-dropout", 0.0, "recipe: none"),
        ("--init-method-std", recipe.init_scale / math.sqrt(shape.hidden), "recipe.init_scale / sqrt(plan.shape.hidden)"),
        ("--embedding-init-method-std", 0.5 * recipe.init_scale / math.sqrt(shape.hidden), "half of that; given, it also spares the embedding decay"),
        ("--tokenizer-type", "HuggingFaceTokenizer", "source.corpus_path"),
        ("--tokenizer-model", str(launch.run.corpus.tokenizer_path.resolve()), "source.corpus_path"),
        ("--vocab-size", shape.vocab, "plan.shape.vocab"),
        ("--make-vocab-size-divisible-by", 1, "plan.shape.vocab, not padded"),
    ]
    training = [
        ("--seed", tip.seed + 1, "seed + 1: Megatron's must be positive"),
        ("--global-batch-size", batch, "recipe.batch_sequences"),
        ("--micro-batch-size", micro_batch, "--micro-batch"),
        ("--lr", tip.learning_rate, rate_source(launch)),
        ("--min-lr", 0.0, "recipe: the cooldown ends at zero"),
        ("--lr-decay-style", "WSD", "recipe: warm-up, constant, cooldown"),
        ("--lr-wsd-decay-style", "minus_sqrt", "recipe: 1 - sqrt"),
        # Megatron's rate of step k, from 0, is init + (lr - init) x k / iters; the recipe's is lr x (k + 1) / warmup_steps.
        ("--lr-warmup-init", tip.learning_rate / max(1, steps.warmup), "--lr / recipe.warmup_steps: the first step's rate, as in the recipe"),
        ("--lr-warmup-samples", batch * max(0, steps.warmup - 1), f"recipe.warmup_steps, less the first step, {in_samples}"),
        ("--lr-decay-samples", batch * steps.total, "(plan.tokens_pt + plan.tokens_spec) / recipe.seq_len"),
        ("--lr-wsd-decay-samples", batch * steps.cooldown, f"recipe.cooldown_fraction of the last stage, {in_samples}"),
        *([("--phase-transition-iterations", steps.general, reset)] if 0 < steps.general < steps.total else []),
        ("--override-opt-param-scheduler", None, "the calls differ in --train-samples; without it the schedule of a checkpoint must equal the call's"),
        ("--weight-decay", recipe.weight_decay, "recipe.weight_decay"),
        ("--adam-beta1", recipe.beta1, "recipe.beta1"),
        ("--adam-beta2", recipe.beta2, "recipe.beta2"),
        ("--adam-eps", recipe.epsilon, "recipe.epsilon"),
        ("--clip-grad", recipe.clip_norm, "recipe.clip_norm"),
        ("--bf16", None, "--precision"),
        ("--use-distributed-optimizer", None, "sharded moments, as here"),
    ]
    calls, data, replay = [], [], launch.allocation.replay_fraction
    if steps.general:
        calls.append(f'stage {steps.general} "${{GENERAL_DATA[@]}}"  # general text: plan.tokens_pt, less what is replayed')
        data.append(_DATA.format("GENERAL", "general"))
    if steps.total > steps.general:
        calls.append(f'stage {steps.total} "${{SPECIALIST_DATA[@]}}"  # specialist text, to the end: plan.tokens_spec and what is replayed')
        data.append(_DATA.format("SPECIALIST", "specialist"))
    return _MEGATRON.substitute(
        head=head(launch, _MIX.format(1 - replay, replay)), ranks=ranks, batch=batch, model=_arguments(model), training=_arguments(training),
        calls="\n".join(calls), data="\n".join(data), general_steps=steps.general, untied="" if shape.tied else _UNTIED,
    )  # fmt: skip


def _arguments(rows: Sequence[tuple[str, object, str]]) -> str:
    return "\n".join(f"    {key}{'' if value is None else ' ' + shlex.quote(str(value))}  # {source}" for key, value, source in rows)
