# SPDX-License-Identifier: BSD-3-Clause
"""OLMo 1: LLaMA with norms that have no weights, queries, keys and values clipped in some sizes."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm
from .llama import LLAMA, llama


def olmo(config: HFConfig) -> ModelSpec:
    return replace(
        llama(config.completed(rms_norm_eps=1e-5)),
        norm=Norm.LAYER,
        norm_weight=False,
        norm_bias=False,
        qkv_limit=config.number("clip_qkv", 0.0),
    )


OLMO = replace(LLAMA, spec=olmo)
