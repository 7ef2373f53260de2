# SPDX-License-Identifier: BSD-3-Clause
"""Phi 1 to 2: attention and MLP side by side behind one norm, biases everywhere, partial rotary positions."""

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Residual
from .base import Family, activation, decoder
from .rope import rope_spec

NAMES = {
    "embedding": "model.embed_tokens",
    "head": "lm_head",
    "final_norm": "model.final_layernorm",
    "norm1": "model.layers.{layer}.input_layernorm",
    "q": "model.layers.{layer}.self_attn.q_proj",
    "k": "model.layers.{layer}.self_attn.k_proj",
    "v": "model.layers.{layer}.self_attn.v_proj",
    "q_norm": "model.layers.{layer}.self_attn.q_layernorm",
    "k_norm": "model.layers.{layer}.self_attn.k_layernorm",
    "output": "model.layers.{layer}.self_attn.dense",
    "up": "model.layers.{layer}.mlp.fc1",
    "down": "model.layers.{layer}.mlp.fc2",
}


def phi(config: HFConfig) -> ModelSpec:
    return decoder(
        config,
        norm=Norm.LAYER,
        norm_eps=config.number("layer_norm_eps", 1e-5),
        activation=activation(config, "hidden_act", "gelu_new"),
        residual=Residual.PARALLEL_ONE_NORM,
        rope=rope_spec(config, rotary_share=0.5),
        qk_norm=Norm.LAYER if config.flag("qk_layernorm", False) else None,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
        head_bias=True,
    )


PHI = Family(phi, NAMES, ignored=(r"\.rotary_emb\.inv_freq$",))
