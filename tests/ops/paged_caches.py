# SPDX-License-Identifier: BSD-3-Clause
"""Keys, values and caches for the tests of what writes into the paged cache."""

from dataclasses import dataclass

import torch
from kernels import laid_out
from torch import Tensor

NUM_BLOCKS, BLOCK_SIZE = 7, 5


@dataclass
class CacheWrite:
    """T tokens, some of which only fill the batch."""

    q: Tensor
    k: Tensor
    v: Tensor
    k_cache: Tensor
    v_cache: Tensor
    slot_mapping: Tensor

    def slots(self) -> list[tuple[int, int, int]]:
        """(token, block, offset) of every token that is written."""
        slots = enumerate(self.slot_mapping.tolist())
        return [(token, slot // BLOCK_SIZE, slot % BLOCK_SIZE) for token, slot in slots if slot >= 0]


def cache_write(
    num_tokens: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, layout: str
) -> CacheWrite:
    """Random contents everywhere.

    Args:
        layout: "fused" for views of one product and of a cache whose blocks hold keys and values side by side,
            or one of `kernels.LAYOUTS` for every tensor.
    """
    generator = torch.Generator().manual_seed(num_tokens * head_dim)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    counts = [num_heads, num_kv_heads, num_kv_heads]
    cache_shape = (num_kv_heads, BLOCK_SIZE, head_dim)
    if layout == "fused":
        q, k, v = random(num_tokens, sum(counts), head_dim).split(counts, 1)
        k_cache, v_cache = random(NUM_BLOCKS, 2, *cache_shape).unbind(1)
    else:
        q, k, v = (laid_out(random(num_tokens, count, head_dim), layout) for count in counts)
        k_cache, v_cache = (laid_out(random(NUM_BLOCKS, *cache_shape), layout) for _ in range(2))
    slots = torch.randperm(NUM_BLOCKS * BLOCK_SIZE, generator=generator)[:num_tokens].int()
    slots[1::3] = -1
    return CacheWrite(q, k, v, k_cache, v_cache, slots)
