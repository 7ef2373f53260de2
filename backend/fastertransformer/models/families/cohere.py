# SPDX-License-Identifier: BSD-3-Clause
"""Command R: attention and gated MLP side by side behind one norm, which has no bias; scaled logits."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Residual
from .llama import LLAMA, llama


def cohere(config: HFConfig) -> ModelSpec:
    config.only("use_qk_norm", False)  # Command R+ has a weight for every head
    eps = config.number("layer_norm_eps", 1e-5)
    spec = llama(config.completed(rms_norm_eps=eps, tie_word_embeddings=True))
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


COHERE = replace(LLAMA, spec=cohere)
