# SPDX-License-Identifier: BSD-3-Clause
"""Rotation, cache write and attention as one op, for steps in which no sequence has several queries."""

import torch
from torch import Tensor

from .attention import paged_attention
from .registry import op
from .rope import add_to_cache


@op(out=lambda q, *_: torch.empty(q.shape, dtype=q.dtype, device=q.device))
def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    cos_sin: Tensor | None,
    interleaved: bool,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    work: Tensor,
    workspace: Tensor,
    max_seqlen_k: int,
    scale: float,
    window: int,
    soft_cap: float,
    alibi_slopes: Tensor | None,
    relative_bias: Tensor | None,
) -> Tensor:
    """`add_to_cache`, then `paged_attention`.

    Afterwards q and k hold anything.

    Args:
        q: [T, N, D]; a sequence has one query, or none.
        slot_mapping: [T] int32, where the last of the sequence's seq_lens keys lies; -1 for tokens of no
            sequence, of which nothing is written and whose result is anything.

    The others as in those ops.

    Returns:
        [T, N, D]
    """
    add_to_cache(q, k, v, positions, cos_sin, interleaved, k_cache, v_cache, slot_mapping)
    return paged_attention(
        q,
        k_cache,
        v_cache,
        block_tables,
        seq_lens,
        cu_seqlens_q,
        work,
        workspace,
        1,
        max_seqlen_k,
        scale,
        window,
        soft_cap,
        alibi_slopes,
        relative_bias,
    )
