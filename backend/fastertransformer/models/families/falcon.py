# SPDX-License-Identifier: BSD-3-Clause
"""Falcon: one key-value head (7B) or groups (40B, 180B, 11B), one norm, two, or sequential sublayers (RW)."""

from ...layers.position import alibi_slopes
from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Residual
from .base import Family, activation, decoder
from .layouts import grouped
from .rope import rope_spec

NAMES: dict[str, str | tuple[str, ...]] = {
    "embedding": "transformer.word_embeddings",
    "head": "lm_head",
    "final_norm": "transformer.ln_f",
    "norm1": ("transformer.h.{layer}.input_layernorm", "transformer.h.{layer}.ln_attn"),
    "qkv": "transformer.h.{layer}.self_attention.query_key_value",
    "output": "transformer.h.{layer}.self_attention.dense",
    "norm2": ("transformer.h.{layer}.post_attention_layernorm", "transformer.h.{layer}.ln_mlp"),
    "up": "transformer.h.{layer}.mlp.dense_h_to_4h",
    "down": "transformer.h.{layer}.mlp.dense_4h_to_h",
}


def falcon(config: HFConfig) -> ModelSpec:
    bias, alibi = config.flag("bias", False), config.flag("alibi", False)
    return decoder(
        config,
        num_key_value_heads=_num_key_value_heads(config),
        intermediate_size=config.integer("intermediate_size", 4 * config.integer("hidden_size")),
        max_position_embeddings=config.integer("max_position_embeddings"),
        norm=Norm.LAYER,
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        activation=activation(config, "activation", "gelu"),
        residual=_residual(config),
        rope=None if alibi else rope_spec(config),
        alibi_slopes=_slopes(config) if alibi else (),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


def _num_key_value_heads(config: HFConfig) -> int:
    grouped_heads = config.flag("new_decoder_architecture", False)
    if config.flag("multi_query", True) and not grouped_heads:
        return 1
    return config.integer("num_kv_heads", config.integer("num_attention_heads"))


def _residual(config: HFConfig) -> Residual:
    grouped_heads = config.flag("new_decoder_architecture", False)
    if not (config.flag("parallel_attn", True) or grouped_heads):
        return Residual.PRE
    two = grouped_heads and config.integer("num_ln_in_parallel_attn", 2) == 2
    return Residual.PARALLEL if two else Residual.PARALLEL_ONE_NORM


def _slopes(config: HFConfig) -> tuple[float, ...]:
    """The bias is part of what is scaled by 1 / sqrt(head_dim)."""
    heads = config.integer("num_attention_heads")
    head_dim = config.integer("hidden_size") // heads
    return tuple(slope * head_dim**-0.5 for slope in alibi_slopes(heads))


FALCON = Family(
    falcon,
    NAMES,
    prefix="transformer.",
    config_names={"n_embed": "hidden_size", "ffn_hidden_size": "intermediate_size"},
    qkv_layout=grouped,
)
