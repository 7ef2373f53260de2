# SPDX-License-Identifier: BSD-3-Clause
"""Phi-3 and Phi-4: LLaMA with qkv and gate_up stored as one tensor each, and scaling for long contexts."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec
from .llama import LLAMA, mistral
from .llama import NAMES as LLAMA_NAMES

NAMES = {
    **LLAMA_NAMES,
    "qkv": "model.layers.{layer}.self_attn.qkv_proj",
    "gate_up": "model.layers.{layer}.mlp.gate_up_proj",
}


def phi3(config: HFConfig) -> ModelSpec:
    return mistral(config.completed(rms_norm_eps=1e-5))


PHI3 = replace(LLAMA, spec=phi3, names=NAMES)
