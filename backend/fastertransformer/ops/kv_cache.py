# SPDX-License-Identifier: BSD-3-Clause
"""Writing keys and values into the paged cache."""

from torch import Tensor

from .registry import op


@op(out=None)
def kv_write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """cache[slot // block_size, :, slot % block_size] = row, in place.

    Args:
        k, v: [T, K, D], may be strided. k_cache, v_cache: [num_blocks, K, block_size, D].
        slot_mapping: [T] int32, block * block_size + offset; -1 marks a row that only fills the batch,
            of which nothing is written.
    """
    rows = slot_mapping >= 0
    slots, block_size = slot_mapping[rows].long(), k_cache.shape[2]
    k_cache[slots // block_size, :, slots % block_size] = k[rows]
    v_cache[slots // block_size, :, slots % block_size] = v[rows]
