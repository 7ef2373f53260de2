# SPDX-License-Identifier: BSD-3-Clause
"""Rotary tables against transformers, at positions far beyond the trained context."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from fastertransformer.layers.position import rope_table
from fastertransformer.models.families.rope import rope_spec
from fastertransformer.models.hf_config import HFConfig

NUM_POSITIONS = 40_000
YARN = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 2048}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 2048,
}
CASES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn-attention-factor": {**YARN, "attention_factor": 1.5},
    "yarn-mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn-betas": {**YARN, "beta_fast": 20.0, "beta_slow": 2.0},
    "yarn-whole": {**YARN, "truncate": True},
    "yarn-not-truncated": {**YARN, "truncate": False},
    "yarn-ramp-of-no-length": {**YARN, "beta_fast": 1e-9, "beta_slow": 1e-9},
}


@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("name", CASES)
def test_tables_equal_transformers(name, theta):
    parameters = {**CASES[name], "rope_theta": theta}
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=NUM_POSITIONS,
        rope_parameters=parameters,
    )
    expected = LlamaRotaryEmbedding(config)(torch.empty(0), torch.arange(NUM_POSITIONS)[None])
    values = {
        "rope_parameters": parameters,
        "max_position_embeddings": NUM_POSITIONS,
        "hidden_size": 256,
        "num_attention_heads": 4,
    }
    table = rope_table(rope_spec(HFConfig(values, "config.json")), NUM_POSITIONS)
    assert table.dtype is torch.float32
    assert table.shape == (NUM_POSITIONS, 64)
    for ours, theirs in zip(table.chunk(2, -1), expected, strict=True):
        # One ulp of an angle at position 40,000 is 0.004.
        torch.testing.assert_close(ours, theirs[0, :, :32], atol=6e-3, rtol=0)
        torch.testing.assert_close(ours[:100], theirs[0, :100, :32], atol=1e-5, rtol=0)
