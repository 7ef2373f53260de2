# SPDX-License-Identifier: BSD-3-Clause
"""Command R and R7B: attention and gated MLP side by side behind one norm without a bias; scaled logits."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Residual
from .base import windows
from .llama import LLAMA, llama


def cohere(config: HFConfig) -> ModelSpec:
    config.only("use_qk_norm", False)  # Command R+ has a weight for every head
    eps = config.number("layer_norm_eps", 1e-5)
    spec = llama(config.completed(rms_norm_eps=eps, rope_theta=500_000.0, tie_word_embeddings=True))
    assert spec.rope is not None
    return replace(
        spec,
        norm=Norm.LAYER,
        norm_eps=eps,
        norm_bias=False,
        residual=Residual.PARALLEL_ONE_NORM,
        rope=replace(spec.rope, interleaved=True),
        logits_scale=config.number("logit_scale", 0.0625),
    )


def cohere2(config: HFConfig) -> ModelSpec:
    """Layers slide but for every fourth one, which sees all keys and does not rotate."""
    spec, period = cohere(config.completed(rope_theta=10_000.0)), config.integer("sliding_window_pattern", 4)
    sliding = windows(config, config.integer("sliding_window", 4096), lambda layer: (layer + 1) % period != 0)
    return replace(spec, windows=sliding, ropes=tuple(spec.rope if window else None for window in sliding))


COHERE = replace(LLAMA, spec=cohere)
COHERE2 = replace(LLAMA, spec=cohere2)
