# SPDX-License-Identifier: BSD-3-Clause
"""StableLM: LLaMA with layer norms and rotary positions on part of a head, side by side in some sizes."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Residual
from .base import activation, decoder
from .llama import LLAMA
from .rope import rope_spec


def stablelm(config: HFConfig) -> ModelSpec:
    config.only("qk_layernorm", False)
    parallel = config.flag("use_parallel_residual", False)
    return decoder(
        config,
        norm=Norm.LAYER,
        norm_eps=config.number("layer_norm_eps", 1e-5),
        activation=activation(config, "hidden_act", "silu"),
        gated_mlp=True,
        residual=Residual.PARALLEL_ONE_NORM if parallel else Residual.PRE,
        rope=rope_spec(config, rotary_share=0.25),
        qkv_bias=config.flag("use_qkv_bias", False),
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
    )


STABLELM = replace(LLAMA, spec=stablelm)
