# SPDX-License-Identifier: BSD-3-Clause
"""LLaMA and the models that differ from it in a few fields: Mistral, Qwen2, Qwen3."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm
from .base import Family, activation, decoder, every_layer, windows
from .rope import rope_spec

NAMES = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "norm1": "model.layers.{layer}.input_layernorm",
    "q": "model.layers.{layer}.self_attn.q_proj",
    "k": "model.layers.{layer}.self_attn.k_proj",
    "v": "model.layers.{layer}.self_attn.v_proj",
    "q_norm": "model.layers.{layer}.self_attn.q_norm",
    "k_norm": "model.layers.{layer}.self_attn.k_norm",
    "output": "model.layers.{layer}.self_attn.o_proj",
    "norm2": "model.layers.{layer}.post_attention_layernorm",
    "gate": "model.layers.{layer}.mlp.gate_proj",
    "up": "model.layers.{layer}.mlp.up_proj",
    "down": "model.layers.{layer}.mlp.down_proj",
}


def llama(config: HFConfig) -> ModelSpec:
    bias = config.flag("attention_bias", False)
    return decoder(
        config,
        norm=Norm.RMS,
        norm_eps=config.number("rms_norm_eps"),
        activation=activation(config, "hidden_act", "silu"),
        gated_mlp=True,
        rope=rope_spec(config),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
    )


def mistral(config: HFConfig) -> ModelSpec:
    """Every layer slides where the config has a window."""
    return replace(llama(config), windows=windows(config, config.integer("sliding_window", 0), every_layer))


def qwen2(config: HFConfig) -> ModelSpec:
    """Biases on q, k and v alone; some layers slide."""
    return replace(llama(config), qkv_bias=True, output_bias=False, windows=_qwen_windows(config))


def qwen3(config: HFConfig) -> ModelSpec:
    """Normalised query and key heads."""
    return replace(llama(config), qk_norm=Norm.RMS, windows=_qwen_windows(config))


def _qwen_windows(config: HFConfig) -> tuple[int, ...]:
    """Layers from max_window_layers on, or those that layer_types names."""
    if not config.flag("use_sliding_window", False):
        return ()
    first = config.integer("max_window_layers", config.integer("num_hidden_layers"))
    return windows(config, config.integer("sliding_window"), lambda layer: layer >= first)


LLAMA = Family(llama, NAMES, ignored=(r"\.rotary_emb\.inv_freq$",))
MISTRAL = replace(LLAMA, spec=mistral)
QWEN2 = replace(LLAMA, spec=qwen2)
QWEN3 = replace(LLAMA, spec=qwen3)
