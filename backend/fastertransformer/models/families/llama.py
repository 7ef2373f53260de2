# SPDX-License-Identifier: BSD-3-Clause
"""LLaMA and the models that differ from it in a few fields: Mistral, Qwen2, Qwen3."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm
from .base import Family
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

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def llama(config: HFConfig) -> ModelSpec:
    heads = config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", config.integer("hidden_size") // heads)
    bias = config.flag("attention_bias", False)
    return ModelSpec(
        hidden_size=config.integer("hidden_size"),
        num_hidden_layers=config.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=config.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        intermediate_size=config.integer("intermediate_size"),
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings"),
        norm=Norm.RMS,
        norm_eps=config.number("rms_norm_eps"),
        activation=config.choice("hidden_act", _ACTIVATIONS, "silu"),
        gated_mlp=True,
        rope=rope_spec(config, head_dim),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
    )


def mistral(config: HFConfig) -> ModelSpec:
    """Every layer slides where the config has a window."""
    spec = llama(config)
    return replace(spec, windows=(config.integer("sliding_window", 0),) * spec.num_hidden_layers)


def qwen2(config: HFConfig) -> ModelSpec:
    """Biases on q, k and v alone; some layers slide."""
    spec = llama(config)
    return replace(
        spec, qkv_bias=True, output_bias=False, windows=_qwen_windows(config, spec.num_hidden_layers)
    )


def qwen3(config: HFConfig) -> ModelSpec:
    """Normalised query and key heads."""
    spec = llama(config)
    return replace(spec, qk_norm=True, windows=_qwen_windows(config, spec.num_hidden_layers))


def _qwen_windows(config: HFConfig, num_layers: int) -> tuple[int, ...]:
    """Layers from max_window_layers on, or those that layer_types names."""
    if not config.flag("use_sliding_window", False):
        return ()
    window, first = config.integer("sliding_window"), config.integer("max_window_layers", num_layers)
    kinds = config.texts("layer_types")
    slides = [kind == "sliding_attention" for kind in kinds] or [
        layer >= first for layer in range(num_layers)
    ]
    return tuple(window if slide else 0 for slide in slides)


LLAMA = Family(llama, NAMES, ignored=(r"\.rotary_emb\.inv_freq$",))
MISTRAL = replace(LLAMA, spec=mistral)
QWEN2 = replace(LLAMA, spec=qwen2)
QWEN3 = replace(LLAMA, spec=qwen3)
