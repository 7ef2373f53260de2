# SPDX-License-Identifier: BSD-3-Clause
"""OPT: learned positions behind two unused rows; the 350m model has norms behind the sums and projections."""

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Positions, Residual
from .base import Family, activation, decoder

NAMES = {
    "embedding": "model.decoder.embed_tokens",
    "project_in": "model.decoder.project_in",
    "positions": "model.decoder.embed_positions",
    "final_norm": "model.decoder.final_layer_norm",
    "project_out": "model.decoder.project_out",
    "head": "lm_head",
    "norm1": "model.decoder.layers.{layer}.self_attn_layer_norm",
    "q": "model.decoder.layers.{layer}.self_attn.q_proj",
    "k": "model.decoder.layers.{layer}.self_attn.k_proj",
    "v": "model.decoder.layers.{layer}.self_attn.v_proj",
    "output": "model.decoder.layers.{layer}.self_attn.out_proj",
    "norm2": "model.decoder.layers.{layer}.final_layer_norm",
    "up": "model.decoder.layers.{layer}.fc1",
    "down": "model.decoder.layers.{layer}.fc2",
}


def opt(config: HFConfig) -> ModelSpec:
    before, bias = config.flag("do_layer_norm_before", True), config.flag("enable_bias", True)
    affine, hidden_size = config.flag("layer_norm_elementwise_affine", True), config.integer("hidden_size")
    embedding_size = config.integer("word_embed_proj_dim", hidden_size)
    return decoder(
        config,
        norm=Norm.LAYER,
        norm_weight=affine,
        norm_bias=affine,
        norm_eps=1e-5,
        activation=activation(config, "activation_function", "relu"),
        embedding_size=0 if embedding_size == hidden_size else embedding_size,
        positions=Positions.LEARNED,
        position_offset=2,
        residual=Residual.PRE if before else Residual.POST,
        final_norm=before and not config.flag("_remove_final_layer_norm", False),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


OPT = Family(opt, NAMES, prefix="model.", config_names={"ffn_dim": "intermediate_size"})
