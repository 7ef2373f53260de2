# SPDX-License-Identifier: BSD-3-Clause
"""GPTBigCode (StarCoder, SantaCoder): GPT-2 with one key-value head, weights stored as [out, in]."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec
from .base import activation
from .gpt2 import GPT2, gpt2
from .layouts import grouped


def gpt_bigcode(config: HFConfig) -> ModelSpec:
    spec = gpt2(config)
    return replace(
        spec,
        num_key_value_heads=1 if config.flag("multi_query", True) else spec.num_attention_heads,
        activation=activation(config, "activation_function", "gelu_pytorch_tanh"),
    )


GPT_BIGCODE = replace(GPT2, spec=gpt_bigcode, qkv_layout=grouped, transposed=False)
