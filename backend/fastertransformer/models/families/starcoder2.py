# SPDX-License-Identifier: BSD-3-Clause
"""StarCoder2: layer norms and a plain MLP with biases around grouped, rotary, windowed attention."""

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm
from .base import Family, activation, decoder, every_layer, windows
from .llama import NAMES as LLAMA_NAMES
from .rope import rope_spec

NAMES = {role: name for role, name in LLAMA_NAMES.items() if role not in ("gate", "q_norm", "k_norm")} | {
    "up": "model.layers.{layer}.mlp.c_fc",
    "down": "model.layers.{layer}.mlp.c_proj",
}


def starcoder2(config: HFConfig) -> ModelSpec:
    bias = config.flag("use_bias", True)
    return decoder(
        config,
        num_key_value_heads=config.integer("num_key_value_heads", 2),
        norm=Norm.LAYER,
        norm_eps=config.number("norm_epsilon", 1e-5),
        activation=activation(config, "hidden_act", "gelu_pytorch_tanh"),
        rope=rope_spec(config),
        windows=windows(config, config.integer("sliding_window", 0), every_layer),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


STARCODER2 = Family(starcoder2, NAMES)
