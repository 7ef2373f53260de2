# SPDX-License-Identifier: BSD-3-Clause
"""Gemma 1 to 3, text: scaled embeddings, norms stored around 0; later norms on both sides, caps, windows."""

from dataclasses import replace

from ...layers.position import RopeSpec
from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Residual
from .base import Family, activation, decoder, windows
from .llama import NAMES
from .rope import rope_of, rope_spec

_NORMS = {
    "post_norm1": "model.layers.{layer}.post_attention_layernorm",
    "norm2": "model.layers.{layer}.pre_feedforward_layernorm",
    "post_norm2": "model.layers.{layer}.post_feedforward_layernorm",
}


def gemma(config: HFConfig) -> ModelSpec:
    """`gelu` in the configs of the first Gemma means its approximation by tanh."""
    config.only("use_bidirectional_attention", False)
    bias, kind = config.flag("attention_bias", False), activation(config, "hidden_act", "gelu")
    return decoder(
        config,
        embedding_scale=config.integer("hidden_size") ** 0.5,
        norm=Norm.RMS,
        norm_eps=config.number("rms_norm_eps", 1e-6),
        norm_offset=1.0,
        activation={"gelu": "gelu_tanh"}.get(kind, kind),
        gated_mlp=True,
        rope=rope_spec(config),
        qkv_bias=bias,
        output_bias=bias,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


def gemma2(config: HFConfig) -> ModelSpec:
    """The first layer slides, and every second one."""
    return replace(
        gemma(config),
        residual=Residual.SANDWICH,
        activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"),
        attention_scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
        attention_soft_cap=config.number("attn_logit_softcapping", 0.0),
        logits_soft_cap=config.number("final_logit_softcapping", 0.0),
        windows=windows(config, config.integer("sliding_window", 4096), lambda layer: layer % 2 == 0),
    )


def gemma3(config: HFConfig) -> ModelSpec:
    """Normalised heads; five layers of six slide, with rotary angles of their own."""
    period = config.integer("sliding_window_pattern", 6)
    sliding = windows(config, config.integer("sliding_window", 4096), lambda layer: (layer + 1) % period != 0)
    near, far = _ropes(config)
    return replace(
        gemma2(config),
        qk_norm=Norm.RMS,
        attention_soft_cap=0.0,
        windows=sliding,
        ropes=tuple(near if window else far for window in sliding),
    )


def _ropes(config: HFConfig) -> tuple[RopeSpec, RopeSpec]:
    """Of layers that slide and of those that do not; older configs scale the latter alone."""
    both = config.section("rope_parameters")
    far = both.section("full_attention") if config.has("rope_parameters") else config.section("rope_scaling")
    return (
        rope_of(config, both.section("sliding_attention"), config.number("rope_local_base_freq", 1e4)),
        rope_of(config, far, config.number("rope_theta", 1e6)),
    )


GEMMA = Family(gemma, NAMES)
GEMMA2 = Family(gemma2, {**NAMES, **_NORMS})
GEMMA3 = Family(gemma3, {**NAMES, **_NORMS})
