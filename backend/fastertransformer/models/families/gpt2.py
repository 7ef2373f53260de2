# SPDX-License-Identifier: BSD-3-Clause
"""GPT-2: layer norms, learned positions, fused qkv stored as [in, out]."""

from ...errors import ModelLoadError
from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm
from .base import Family

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

_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}


def gpt2(config: HFConfig) -> ModelSpec:
    for key in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        if config.flag(key, False):
            raise ModelLoadError(f"config.json of a gpt2 checkpoint sets {key}, which is not supported")
    hidden_size, heads = config.integer("n_embd"), config.integer("n_head")
    return ModelSpec(
        hidden_size=hidden_size,
        num_hidden_layers=config.integer("n_layer"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden_size // heads,
        intermediate_size=config.integer("n_inner", 4 * hidden_size),
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("n_positions"),
        norm=Norm.LAYER,
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        activation=config.choice("activation_function", _ACTIVATIONS, "gelu_new"),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


GPT2 = Family(
    gpt2,
    NAMES,
    prefix="transformer.",
    transposed=True,
    ignored=(r"\.attn\.(masked_)?bias$",),
)
