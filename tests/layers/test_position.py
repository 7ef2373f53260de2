# SPDX-License-Identifier: BSD-3-Clause
"""Rotary tables at positions far beyond the trained context, ALiBi and sinusoids, against transformers."""

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
from transformers.models.xglm.modeling_xglm import XGLMSinusoidalPositionalEmbedding

from fastertransformer.layers.position import alibi_slopes, rope_table, sinusoidal_table
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


LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.01 * i for i in range(32)],
    "long_factor": [1.0 + 0.5 * i for i in range(32)],
}


@pytest.mark.parametrize(
    ("num_positions", "extra"),
    [(4096, {}), (4097, {}), (64, {"factor": 2.0}), (NUM_POSITIONS, {"attention_factor": 1.7})],
)
def test_long_tables_equal_transformers(num_positions, extra):
    """One length decides for all positions: that of the table here, that of the sequence there."""
    parameters = {**LONG, "rope_theta": 1e4, **extra}
    sizes = {"hidden_size": 256, "num_attention_heads": 4}
    limits = {"max_position_embeddings": NUM_POSITIONS, "original_max_position_embeddings": 4096}
    config = Phi3Config(**sizes, **limits, rope_parameters=dict(parameters))
    expected = Phi3RotaryEmbedding(config)(torch.empty(0), torch.arange(num_positions)[None])
    values = {**sizes, **limits, "rope_parameters": parameters}
    table = rope_table(rope_spec(HFConfig(values, "config.json")), num_positions)
    for ours, theirs in zip(table.chunk(2, -1), expected, strict=True):
        torch.testing.assert_close(ours, theirs[0, :, :32], atol=6e-3, rtol=0)
        torch.testing.assert_close(ours[:100], theirs[0, :100, :32], atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6, 7, 8, 12, 16, 25, 32, 71, 112])
def test_alibi_slopes_equal_transformers(num_heads):
    mask = torch.ones(1, 2)
    expected = build_alibi_tensor(mask, num_heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(torch.tensor(alibi_slopes(num_heads)), expected, rtol=1e-5, atol=0)
    for bias_max in (8, 16):
        bias = build_mpt_alibi_tensor(num_heads, 2, bias_max)
        slopes = torch.tensor(alibi_slopes(num_heads, bias_max))
        torch.testing.assert_close(slopes, -bias[:, 0, 0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("offset", [0, 2])
def test_sinusoids_equal_transformers(offset):
    expected = XGLMSinusoidalPositionalEmbedding.get_embedding(2048 + offset, 96)
    torch.testing.assert_close(sinusoidal_table(2048, 96, offset), expected[offset:], atol=1e-3, rtol=0)
