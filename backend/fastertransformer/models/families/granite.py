# SPDX-License-Identifier: BSD-3-Clause
"""Granite 3 without experts: LLaMA with factors of embeddings, scores, sublayers and logits."""

from dataclasses import replace

from ...errors import ModelLoadError
from ..hf_config import HFConfig
from ..spec import ModelSpec
from .llama import LLAMA, llama


def granite(config: HFConfig) -> ModelSpec:
    return replace(
        llama(config),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        attention_scale=_positive(config, "attention_multiplier"),
        residual_scale=config.number("residual_multiplier", 1.0),
        logits_scale=1 / _positive(config, "logits_scaling"),
    )


def _positive(config: HFConfig, key: str) -> float:
    """1 where the config has none."""
    value = config.number(key, 1.0)
    if value <= 0:
        raise ModelLoadError(f"{config.source}: {key} is {value}; allowed is > 0")
    return value


GRANITE = replace(LLAMA, spec=granite)
