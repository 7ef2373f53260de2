# SPDX-License-Identifier: BSD-3-Clause
"""MPT: ALiBi, no biases anywhere."""

from ...layers.position import alibi_slopes
from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm
from .base import Family, decoder

NAMES = {
    "embedding": "transformer.wte",
    "head": "lm_head",
    "final_norm": "transformer.norm_f",
    "norm1": "transformer.blocks.{layer}.norm_1",
    "qkv": "transformer.blocks.{layer}.attn.Wqkv",
    "output": "transformer.blocks.{layer}.attn.out_proj",
    "norm2": "transformer.blocks.{layer}.norm_2",
    "up": "transformer.blocks.{layer}.ffn.up_proj",
    "down": "transformer.blocks.{layer}.ffn.down_proj",
}


def mpt(config: HFConfig) -> ModelSpec:
    attention = config.section("attn_config")
    config.only("no_bias", True)
    config.only("logit_scale", None)
    for key, value in {
        "attn_type": "multihead_attention",
        "alibi": True,
        "qk_ln": False,
        "prefix_lm": False,
    }.items():
        attention.only(key, value)
    heads = config.integer("num_attention_heads")
    return decoder(
        config,
        intermediate_size=config.integer("expansion_ratio", 4) * config.integer("hidden_size"),
        norm=Norm.LAYER,
        norm_bias=False,
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        activation="gelu",
        alibi_slopes=alibi_slopes(heads, attention.number("alibi_bias_max", 8)),
        attention_scale=attention.number("softmax_scale", 0.0),
        qkv_limit=attention.number("clip_qkv", 0.0),
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


MPT = Family(
    mpt,
    NAMES,
    config_names={
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "max_seq_len": "max_position_embeddings",
    },
)
