# SPDX-License-Identifier: BSD-3-Clause
"""GPT-2: layer norms, learned positions, fused qkv stored as [in, out]."""

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Positions
from .base import Family, activation, decoder

NAMES = {
    "embedding": "transformer.wte",
    "positions": "transformer.wpe",
    "head": "lm_head",
    "final_norm": "transformer.ln_f",
    "norm1": "transformer.h.{layer}.ln_1",
    "qkv": "transformer.h.{layer}.attn.c_attn",
    "output": "transformer.h.{layer}.attn.c_proj",
    "norm2": "transformer.h.{layer}.ln_2",
    "up": "transformer.h.{layer}.mlp.c_fc",
    "down": "transformer.h.{layer}.mlp.c_proj",
}
CONFIG_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
}


def gpt2(config: HFConfig) -> ModelSpec:
    config.only("scale_attn_by_inverse_layer_idx", False)
    config.only("reorder_and_upcast_attn", False)
    config.only("scale_attn_weights", True)
    config.only("add_cross_attention", False)
    return decoder(
        config,
        intermediate_size=config.integer("intermediate_size", 4 * config.integer("hidden_size")),
        norm=Norm.LAYER,
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        activation=activation(config, "activation_function", "gelu_new"),
        positions=Positions.LEARNED,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


GPT2 = Family(
    gpt2,
    NAMES,
    prefix="transformer.",
    config_names=CONFIG_NAMES,
    transposed=True,
    ignored=(r"\.attn\.(masked_)?bias$",),
)
