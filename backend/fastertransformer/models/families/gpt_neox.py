# SPDX-License-Identifier: BSD-3-Clause
"""GPT-NeoX and Pythia: two norms over one residual stream, rotary positions on part of a head."""

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Residual
from .base import Family, activation, decoder
from .layouts import grouped
from .rope import rope_spec

NAMES = {
    "embedding": "gpt_neox.embed_in",
    "head": "embed_out",
    "final_norm": "gpt_neox.final_layer_norm",
    "norm1": "gpt_neox.layers.{layer}.input_layernorm",
    "qkv": "gpt_neox.layers.{layer}.attention.query_key_value",
    "output": "gpt_neox.layers.{layer}.attention.dense",
    "norm2": "gpt_neox.layers.{layer}.post_attention_layernorm",
    "up": "gpt_neox.layers.{layer}.mlp.dense_h_to_4h",
    "down": "gpt_neox.layers.{layer}.mlp.dense_4h_to_h",
}


def gpt_neox(config: HFConfig) -> ModelSpec:
    parallel, bias = config.flag("use_parallel_residual", True), config.flag("attention_bias", True)
    return decoder(
        config,
        norm=Norm.LAYER,
        norm_eps=config.number("layer_norm_eps", 1e-5),
        activation=activation(config, "hidden_act", "gelu"),
        residual=Residual.PARALLEL if parallel else Residual.PRE,
        rope=rope_spec(config, rotary_share=0.25),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=True,
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
    )


GPT_NEOX = Family(
    gpt_neox,
    NAMES,
    config_names={"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"},
    qkv_layout=grouped,
    ignored=(r"\.attention\.(masked_)?bias$", r"\.rotary_emb\.inv_freq$"),
)
