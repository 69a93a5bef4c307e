"""The planned run for torchtitan 0.3.0: a Python module (`config_registry`), into which only numbers and quoted strings are inserted."""

from __future__ import annotations

from string import Template

from planner.launch.export_common import NORM_EPSILON, ROPE_THETA, Schedule, head, rate_source
from planner.launch.launch import Launch
from planner.shapes import ModelShape

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
"""Written by plan launch --export torchtitan. For torchtitan 0.3.0: other releases and its main branch use other names.

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
        "LEARNING_RATE": (tip.learning_rate, rate_source(launch)),
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
        head=head(launch, "the text registered as SPECIALIST_TEXT yields both"), numbers=numbers, use="".join(_USE[name] for name in there if there[name]),
        stages="".join(_STAGES[name] for name in there if there[name]), **_FAMILY[tip.shape.family],
    )  # fmt: skip


def _shape_numbers(shape: ModelShape) -> dict[str, int]:
    return {key: value for key, value in shape.to_dict().items() if isinstance(value, int) and not isinstance(value, bool)}
