# SPDX-License-Identifier: BSD-3-Clause
"""XGLM: OPT's layers with sinusoidal positions and scaled embeddings."""

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Positions
from .base import Family, activation, decoder

NAMES = {
    "embedding": "model.embed_tokens",
    "head": "lm_head",
    "final_norm": "model.layer_norm",
    "norm1": "model.layers.{layer}.self_attn_layer_norm",
    "q": "model.layers.{layer}.self_attn.q_proj",
    "k": "model.layers.{layer}.self_attn.k_proj",
    "v": "model.layers.{layer}.self_attn.v_proj",
    "output": "model.layers.{layer}.self_attn.out_proj",
    "norm2": "model.layers.{layer}.final_layer_norm",
    "up": "model.layers.{layer}.fc1",
    "down": "model.layers.{layer}.fc2",
}


def xglm(config: HFConfig) -> ModelSpec:
    config.only("add_cross_attention", False)
    scaled = config.flag("scale_embedding", True)
    return decoder(
        config,
        norm=Norm.LAYER,
        norm_eps=1e-5,
        activation=activation(config, "activation_function", "gelu"),
        embedding_scale=config.integer("hidden_size") ** 0.5 if scaled else 1.0,
        positions=Positions.SINUSOIDAL,
        position_offset=2,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


XGLM = Family(
    xglm,
    NAMES,
    config_names={
        "d_model": "hidden_size",
        "num_layers": "num_hidden_layers",
        "attention_heads": "num_attention_heads",
        "ffn_dim": "intermediate_size",
    },
    ignored=(r"\.embed_positions\.weights$",),
)
