# SPDX-License-Identifier: BSD-3-Clause
"""Definitions of the sampling ops against published numbers."""

import torch

from fastertransformer import ops


def test_philox_is_the_published_generator():
    """Random123's known answers for philox4x32-10, first word: counter and key 0, and those of pi."""
    seeds = torch.tensor([0], dtype=torch.int64)
    uniform = ops.philox_uniform(seeds, torch.tensor([0], dtype=torch.int32))
    assert uniform.item() == ((0x6627E8D5 >> 8) + 0.5) * 2.0**-24


def test_uniform_is_uniform_and_independent_of_the_batch():
    seeds = torch.arange(20_000, dtype=torch.int64) * 7919 - 5
    positions = torch.arange(20_000, dtype=torch.int32) % 97
    numbers = ops.philox_uniform(seeds, positions)
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert abs(numbers.mean().item() - 0.5) < 0.01
    assert abs(numbers.var().item() - 1 / 12) < 0.003
    assert torch.equal(ops.philox_uniform(seeds[7:8], positions[7:8]), numbers[7:8])
