# SPDX-License-Identifier: BSD-3-Clause
"""BLOOM: no positions but a bias by distance (ALiBi), a norm behind the embedding."""

from ...layers.position import alibi_slopes
from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm
from .base import Family, decoder
from .layouts import grouped

NAMES = {
    "embedding": "transformer.word_embeddings",
    "embedding_norm": "transformer.word_embeddings_layernorm",
    "head": "lm_head",
    "final_norm": "transformer.ln_f",
    "norm1": "transformer.h.{layer}.input_layernorm",
    "qkv": "transformer.h.{layer}.self_attention.query_key_value",
    "output": "transformer.h.{layer}.self_attention.dense",
    "norm2": "transformer.h.{layer}.post_attention_layernorm",
    "up": "transformer.h.{layer}.mlp.dense_h_to_4h",
    "down": "transformer.h.{layer}.mlp.dense_4h_to_h",
}


def bloom(config: HFConfig) -> ModelSpec:
    config.only("apply_residual_connection_post_layernorm", False)
    return decoder(
        config,
        intermediate_size=4 * config.integer("hidden_size"),
        max_position_embeddings=config.integer("seq_length", 2048),
        norm=Norm.LAYER,
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        activation="gelu_tanh",
        embedding_norm=True,
        alibi_slopes=alibi_slopes(config.integer("num_attention_heads")),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


BLOOM = Family(
    bloom,
    NAMES,
    prefix="transformer.",
    config_names={"n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"},
    qkv_layout=grouped,
)
