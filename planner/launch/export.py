"""The planned run as a configuration for another trainer: torchtitan or Megatron-LM. Every number says where it comes from.

The keys are those of torchtitan 0.3.0 and of Megatron's main branch of August 2026. torchtitan's configurations are Python functions (`config_registry`
modules); only numbers, and strings as Python writes them, are put into one. Megatron's are arguments in a shell script, quoted.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from planner.artifacts import write_text
from planner.design.segment import Segment
from planner.errors import InputError
from planner.launch.launch import Launch
from planner.shapes import ModelShape

TARGETS = ("torchtitan", "megatron")
ROPE_THETA = 10000.0
"""Base of the rotary embedding and epsilon of the norms in transformers' configurations of both families; a test compares them."""
NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class Schedule:
    """Steps of the run over both stages."""

    warmup: int
    general: int
    """Steps of general text; 0 for a run from scratch on specialist text."""
    total: int
    cooldown: int
    """Steps of the cooldown that ends the run."""

    @classmethod
    def of(cls, launch: Launch) -> Schedule:
        """Read it off the run's tree."""
        tip: Segment = launch.run.tree.tips[0]
        special = tip.stage == "special"
        general = tip.steps_pt if special else tip.last_step
        assert tip.cooldown_from is not None and tip.cooldown_to is not None
        return cls(launch.run.spec.recipe.warmup_steps, general, general + (tip.last_step if special else 0), tip.cooldown_to - tip.cooldown_from)


def export(launch: Launch, target: str, out: Path, ranks: int, micro_batch: int, *, dry_run: bool = False) -> Path:
    """Write the configuration.

    Args:
        launch: the run.
        target: one of `TARGETS`.
        out: launch folder; the file lies beside it.
        ranks: data-parallel ranks.
        micro_batch: sequences a rank's forward pass.
        dry_run: whether to leave nothing, and only refuse what cannot be.

    Returns:
        The file.

    Raises:
        InputError: the run cannot be said in the other trainer's terms, or the batch cannot be cut as asked.
    """
    _check(launch, target, ranks, micro_batch)
    name = re.sub(r"\W", "_", out.name)
    path = out.parent / f"{name}_{'torchtitan.py' if target == 'torchtitan' else 'megatron.sh'}"
    text = torchtitan(launch, micro_batch) if target == "torchtitan" else megatron(launch, ranks, micro_batch)
    if not dry_run:
        write_text(path, text)
    return path


def _check(launch: Launch, target: str, ranks: int, micro_batch: int) -> None:
    """Refuse what the other trainer would train otherwise, or not at all."""
    recipe = launch.run.spec.recipe
    if launch.run.spec.bases:
        raise InputError(
            f"--export {target} writes a run from scratch, and this plan starts from the open checkpoint {launch.run.spec.bases[0]}",
            remedy="leave --export away and train it with plan launch",
        )
    rates = {segment.learning_rate for segment in launch.run.tree.segments}
    if len(rates) > 1:
        raise InputError(
            f"recipe.special_lr_multiplier = {recipe.special_lr_multiplier:g} gives each stage a rate of its own, and {target} takes the second stage's "
            "from the first one's checkpoint",
            remedy="leave --export away and train it with plan launch, or plan with a recipe in which it is 1",
        )
    _check_warmup(launch, target)
    passes = ranks * micro_batch
    if recipe.batch_sequences % passes:
        raise InputError(
            f"{ranks} ranks x a micro-batch of {micro_batch} sequences do not divide the batch of {recipe.batch_sequences}",
            remedy=f"give --micro-batch {math.gcd(micro_batch, recipe.batch_sequences // ranks)}",
        )


def _check_warmup(launch: Launch, target: str) -> None:
    """Refuse a warm-up that ends with the general stage or runs into the cooldown: both trainers know one schedule over both stages.

    Raises:
        InputError: the other trainer's rates would not be the recipe's.
    """
    steps = Schedule.of(launch)
    constant = steps.total - steps.cooldown
    if 0 < steps.general < min(steps.warmup, steps.total):
        what = f"the {steps.general} steps of the general stage, and {target} would go on warming up where the recipe is at its peak"
    elif steps.warmup > constant:
        what = f"the {constant} steps before the cooldown, and {target} would train at other rates from there on"
    else:
        return
    raise InputError(
        f"recipe.warmup_steps = {steps.warmup} is more than {what}",
        remedy="leave --export away and train it with plan launch, or plan with a recipe of a shorter warm-up",
    )


def _rate_source(launch: Launch) -> str:
    """Say where the rate comes from; the rates of the stages are the same, or there is one stage."""
    recipe, special = launch.run.spec.recipe, launch.run.tree.tips[0].stage == "special"
    multiplied = " x special_lr_multiplier" if special and recipe.special_lr_multiplier != 1 else ""
    return f"recipe.lr_coefficient, lr_exponent and lr_reference_params at plan.params_non_embedding{multiplied}"


def megatron(launch: Launch, ranks: int, micro_batch: int) -> str:
    """Return a script that hands the run's arguments to Megatron-LM's pretrain_gpt.py, one call a stage."""
    tip, recipe, steps = launch.run.tree.tips[0], launch.run.spec.recipe, Schedule.of(launch)
    shape = tip.shape
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
        ("--global-batch-size", recipe.batch_sequences, "recipe.batch_sequences"),
        ("--micro-batch-size", micro_batch, "--micro-batch"),
        ("--lr", tip.learning_rate, _rate_source(launch)),
        ("--min-lr", 0.0, "recipe: the cooldown ends at zero"),
        ("--lr-decay-style", "WSD", "recipe: warm-up, constant, cooldown"),
        ("--lr-wsd-decay-style", "minus_sqrt", "recipe: 1 - sqrt"),
        # Megatron's rate of step k, from 0, is init + (lr - init) x k / iters; the recipe's is lr x (k + 1) / warmup_steps.
        ("--lr-warmup-init", tip.learning_rate / max(1, steps.warmup), "--lr / recipe.warmup_steps: the first step's rate, as in the recipe"),
        ("--lr-warmup-iters", max(0, steps.warmup - 1), "recipe.warmup_steps, less the first step"),
        ("--lr-decay-iters", steps.total, "(plan.tokens_pt + plan.tokens_spec) / (recipe.seq_len x recipe.batch_sequences)"),
        ("--lr-wsd-decay-iters", steps.cooldown, "recipe.cooldown_fraction of the last stage"),
        ("--override-opt-param-scheduler", None, "the calls differ in --train-iters, and the schedule of a checkpoint must be the call's otherwise"),
        ("--weight-decay", recipe.weight_decay, "recipe.weight_decay"),
        ("--adam-beta1", recipe.beta1, "recipe.beta1"),
        ("--adam-beta2", recipe.beta2, "recipe.beta2"),
        ("--adam-eps", recipe.epsilon, "recipe.epsilon"),
        ("--clip-grad", recipe.clip_norm, "recipe.clip_norm"),
        ("--bf16", None, "--precision"),
        ("--use-distributed-optimizer", None, "sharded moments, as here"),
    ]
    calls, data = [], []
    if steps.general:
        calls.append(f'stage {steps.general} "$GENERAL_DATA"  # general text: plan.tokens_pt, less what is replayed')
        data.append(_DATA.format("GENERAL", "general"))
    if steps.total > steps.general:
        calls.append(f'stage {steps.total} "$SPECIALIST_DATA"  # specialist text, to the end: plan.tokens_spec and what is replayed')
        data.append(_DATA.format("SPECIALIST", "specialist"))
    return _MEGATRON.substitute(
        head=_head(launch, "#"), ranks=ranks, model=_arguments(model), training=_arguments(training), calls="\n".join(calls), data="\n".join(data),
        general_steps=steps.general, batch=recipe.batch_sequences, untied="" if shape.tied else _UNTIED,
    )  # fmt: skip


def torchtitan(launch: Launch, micro_batch: int) -> str:
    """Return a module for torchtitan's --module, with one configuration a stage."""
    tip, recipe, steps = launch.run.tree.tips[0], launch.run.spec.recipe, Schedule.of(launch)
    values: dict[str, tuple[object, str]] = {
        **{key.upper(): (value, f"plan.shape.{key}") for key, value in _shape_numbers(tip.shape).items()},
        "TIED": (tip.shape.tied, "plan.shape.tied"),
        "ROPE_THETA": (ROPE_THETA, "transformers' default of recipe.family"),
        "NORM_EPSILON": (NORM_EPSILON, "transformers' default of recipe.family"),
        "INIT_SCALE": (recipe.init_scale, "recipe.init_scale"),
        "SEQ_LEN": (recipe.seq_len, "recipe.seq_len"),
        "BATCH_SEQUENCES": (recipe.batch_sequences, "recipe.batch_sequences"),
        "MICRO_BATCH": (micro_batch, "--micro-batch"),
        "SEED": (tip.seed, "--seed"),
        "LEARNING_RATE": (tip.learning_rate, _rate_source(launch)),
        "WARMUP_STEPS": (steps.warmup, "recipe.warmup_steps"),
        "GENERAL_STEPS": (steps.general, "plan.tokens_pt, less what is replayed, / (recipe.seq_len x recipe.batch_sequences)"),
        "TOTAL_STEPS": (steps.total, "(plan.tokens_pt + plan.tokens_spec) / (recipe.seq_len x recipe.batch_sequences)"),
        "COOLDOWN_STEPS": (steps.cooldown, "recipe.cooldown_fraction of the last stage"),
        "BETAS": ((recipe.beta1, recipe.beta2), "recipe.beta1, recipe.beta2"),
        "EPSILON": (recipe.epsilon, "recipe.epsilon"),
        "WEIGHT_DECAY": (recipe.weight_decay, "recipe.weight_decay"),
        "CLIP_NORM": (recipe.clip_norm, "recipe.clip_norm"),
        "TOKENIZER": (str(launch.run.corpus.tokenizer_path.resolve()), "source.corpus_path"),
    }
    numbers = "\n".join(f"{key} = {value!r}  # {source}" for key, (value, source) in values.items())
    there = {"general": steps.general > 0, "specialist": steps.total > steps.general}
    return _TORCHTITAN.substitute(
        head=_head(launch, "#"), numbers=numbers, use="".join(_USE[name] for name in there if there[name]),
        stages="".join(_STAGES[name] for name in there if there[name]), **_FAMILY[tip.shape.family],
    )  # fmt: skip


def _shape_numbers(shape: ModelShape) -> dict[str, int]:
    return {key: value for key, value in shape.to_dict().items() if isinstance(value, int) and not isinstance(value, bool)}


def _head(launch: Launch, mark: str) -> str:
    """Say what was planned, and what the other trainer does otherwise."""
    plan, recipe = launch.allocation.plan, launch.run.spec.recipe
    replay = launch.allocation.replay_fraction
    lines = [
        f"Forecast of this plan: {plan.loss:.6g} nats/token, {plan.loss_low:.6g} to {plan.loss_high:.6g}, on the held-out text of its own corpus.",
        "It holds for the recipe of the sweep. Not carried over: the order of the data, the held-out split, and how documents are cut into sequences.",
        *([f"Mix {replay:.6g} of general text into the specialist stage (general.replay_fraction)."] if replay else []),
        "Comments name fields of allocation.json; those of recipe stand in its source.",
        f"Recipe {recipe.fingerprint}.",
    ]
    return "\n".join(f"{mark} {line}" for line in lines)


def _arguments(rows: Sequence[tuple[str, object, str]]) -> str:
    return "\n".join(f"    {key}{'' if value is None else ' ' + shlex.quote(str(value))}  # {source}" for key, value, source in rows)


_UNTIED = "\n# The output layer has a matrix of its own, and Megatron decays it like the others; the recipe spares it."
# No apostrophe: bash would read on to the next one, over the checks between.
_DATA = '{0}_DATA="${{{0}_DATA:?prefix of the {1} text as Megatron stores it}}"'
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
    torchrun --nproc-per-node "$$RANKS" pretrain_gpt.py "$${MODEL_ARGS[@]}" "$${TRAINING_ARGS[@]}" \\
        --train-iters "$$1" --data-path "$$2" --save "$$CHECKPOINTS" --load "$$CHECKPOINTS" --save-interval 1000 --split 100,0,0 --eval-iters 0
}
$calls
""")

_FAMILY = {
    "qwen3": {
        "family": "qwen3", "block": "Qwen3TransformerBlock", "decoder": "Qwen3Model", "rope": "CosSinRoPE", "adapter": "Qwen3StateDictAdapter",
        "parallelize": "parallelize_qwen3", "qk_norm": "_norm(HEAD_DIM)",
    },
    "llama": {
        "family": "llama3", "block": "Llama3TransformerBlock", "decoder": "Llama3Model", "rope": "ComplexRoPE", "adapter": "Llama3StateDictAdapter",
        "parallelize": "parallelize_llama", "qk_norm": "None",
    },
}  # fmt: skip
_TORCHTITAN = Template('''\
"""Written by plan launch --export torchtitan. For torchtitan 0.3.0: other releases and its main branch name things otherwise.

$use
Register the texts in torchtitan's DATASETS under the names below.
"""
$head

from functools import partial

from torch import nn
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer, ParamGroupConfig
from torchtitan.config import DebugConfig, TrainingConfig
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader
from torchtitan.models.$family.model import $decoder, $block
from torchtitan.models.$family.parallelize import $parallelize
from torchtitan.models.$family.state_dict_adapter import $adapter
from torchtitan.models.common import $rope, Embedding, Linear
from torchtitan.models.common.config_utils import get_attention_config, make_ffn_config, make_gqa_config
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.trainer import Trainer

GENERAL_TEXT = "general"
SPECIALIST_TEXT = "specialist"
$numbers


def _norm(width):
    return RMSNorm.Config(normalized_shape=width, eps=NORM_EPSILON, param_init={"weight": nn.init.ones_})


def _matrix(fan_in, share=1.0):
    return {"weight": partial(nn.init.normal_, std=share * INIT_SCALE / fan_in**0.5), "bias": nn.init.zeros_}


def _layer():
    residual = (2 * LAYERS) ** -0.5
    feed_forward = make_ffn_config(
        dim=HIDDEN, hidden_dim=INTERMEDIATE, w1_param_init=_matrix(HIDDEN), w2w3_param_init=_matrix(INTERMEDIATE, residual)
    )
    feed_forward.w3.param_init = _matrix(HIDDEN)  # w3 is an up projection; only w2 writes the residual stream
    return $block.Config(
        attention_norm=_norm(HIDDEN),
        ffn_norm=_norm(HIDDEN),
        attention=make_gqa_config(
            dim=HIDDEN, n_heads=HEADS, n_kv_heads=KV_HEADS, head_dim=HEAD_DIM, wqkv_param_init=_matrix(HIDDEN),
            wo_param_init=_matrix(HEADS * HEAD_DIM, residual), inner_attention=get_attention_config("flex"), qk_norm=$qk_norm,
            rope=$rope.Config(dim=HEAD_DIM, max_seq_len=SEQ_LEN, theta=ROPE_THETA),
        ),
        feed_forward=feed_forward,
    )


def _model():
    config = $decoder.Config(
        dim=HIDDEN, vocab_size=VOCAB, norm=_norm(HIDDEN), enable_weight_tying=TIED, layers=[_layer() for _ in range(LAYERS)],
        tok_embeddings=Embedding.Config(num_embeddings=VOCAB, embedding_dim=HIDDEN, param_init=_matrix(HIDDEN, 0.5)),
        lm_head=Linear.Config(in_features=HIDDEN, out_features=VOCAB, param_init=_matrix(HIDDEN, 0.5)),
    )
    return ModelSpec(
        name="$family", flavor="planned", model=config, parallelize_fn=$parallelize, pipelining_fn=pipeline_llm, post_optimizer_build_fn=None,
        state_dict_adapter=$adapter,
    )


def _adamw(pattern, decay):
    return ParamGroupConfig(
        pattern=pattern, optimizer_name="AdamW", optimizer_kwargs={"lr": LEARNING_RATE, "betas": BETAS, "eps": EPSILON, "weight_decay": decay}
    )


def _stage(text, steps):
    return Trainer.Config(
        model_spec=_model(),
        hf_assets_path=TOKENIZER,
        loss=ChunkedLossWrapper.Config(loss_fn=CrossEntropyLoss.Config(global_vocab_size=VOCAB)),
        dataloader=HuggingFaceTextDataLoader.Config(dataset=text),
        # Embeddings, output and norms are not decayed.
        optimizer=OptimizersContainer.Config(param_groups=[_adamw("tok_embeddings|lm_head|norm", 0.0), _adamw(".*", WEIGHT_DECAY)]),
        lr_scheduler=LRSchedulersContainer.Config(
            warmup_steps=WARMUP_STEPS, total_steps=TOTAL_STEPS, decay_ratio=COOLDOWN_STEPS / TOTAL_STEPS, decay_type="sqrt", min_lr_factor=0.0
        ),
        training=TrainingConfig(
            local_batch_size=MICRO_BATCH, global_batch_size=BATCH_SEQUENCES, seq_len=SEQ_LEN, max_norm=CLIP_NORM, steps=steps,
        ),
        checkpoint=CheckpointManager.Config(enable=True, interval=1000, last_save_model_only=False),
        debug=DebugConfig(seed=SEED),
    )
$stages''')
_USE = {
    "general": "    torchrun ... -m torchtitan.train --module THIS_MODULE --config general_stage\n",
    "specialist": "    torchrun ... -m torchtitan.train --module THIS_MODULE --config specialist_stage    # goes on from the checkpoint in its folder\n",
}
_STAGES = {
    "general": '''

def general_stage():
    """General text, the first steps of the schedule."""
    return _stage(GENERAL_TEXT, GENERAL_STEPS)
''',
    "specialist": '''

def specialist_stage():
    """Specialist text, with the cooldown that ends the run."""
    return _stage(SPECIALIST_TEXT, TOTAL_STEPS)
''',
}
