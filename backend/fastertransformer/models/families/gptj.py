# SPDX-License-Identifier: BSD-3-Clause
"""GPT-J and CodeGen: attention and MLP behind one norm, interleaved rotary positions on part of a head."""

from dataclasses import replace

from ...layers.position import RopeSpec
from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Residual
from .base import Family, activation, decoder
from .gpt2 import CONFIG_NAMES
from .layouts import in_parts

NAMES = {
    "embedding": "transformer.wte",
    "head": "lm_head",
    "final_norm": "transformer.ln_f",
    "norm1": "transformer.h.{layer}.ln_1",
    "q": "transformer.h.{layer}.attn.q_proj",
    "k": "transformer.h.{layer}.attn.k_proj",
    "v": "transformer.h.{layer}.attn.v_proj",
    "output": "transformer.h.{layer}.attn.out_proj",
    "up": "transformer.h.{layer}.mlp.fc_in",
    "down": "transformer.h.{layer}.mlp.fc_out",
}
_QKV = {"qkv": "transformer.h.{layer}.attn.qkv_proj"}


def gptj(config: HFConfig) -> ModelSpec:
    return decoder(
        config,
        intermediate_size=config.integer("intermediate_size", 4 * config.integer("hidden_size")),
        norm=Norm.LAYER,
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        activation=activation(config, "activation_function", "gelu_new"),
        residual=Residual.PARALLEL_ONE_NORM,
        rope=RopeSpec(10_000.0, config.integer("rotary_dim", 64), interleaved=True),
        mlp_bias=True,
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
        head_bias=True,
    )


GPTJ = Family(
    gptj,
    NAMES,
    prefix="transformer.",
    config_names=CONFIG_NAMES,
    ignored=(r"\.attn\.((masked_)?bias|causal_mask)$",),
)
CODEGEN = replace(GPTJ, names={**NAMES, **_QKV}, qkv_layout=in_parts)
