# SPDX-License-Identifier: BSD-3-Clause
"""Bidirectional attention whose scores have parts for contents and relative positions. (arXiv 2006.03654)"""

from itertools import pairwise

import torch
from torch import Tensor

from .registry import op


@op(out=lambda q, *_: torch.empty(q.shape, dtype=q.dtype, device=q.device))
def disentangled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    content_to_position: Tensor | None,
    position_to_content: Tensor | None,
    buckets: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
) -> Tensor:
    """softmax(scale * (q k^T + c2p + p2c)) v per head, fp32 inside; a query sees every key of its sequence.

    For query i and key j of a sequence, c2p is content_to_position[n, i, b] and p2c is
    position_to_content[n, j, b], where b = buckets[M - 1 + i - j].

    Args:
        q, k, v: [T, N, D], may be strided views of one product.
        content_to_position: [N, T, R] queries times the keys of relative positions; None leaves it out.
        position_to_content: [N, T, R] keys times the queries of relative positions; None leaves it out.
        buckets: [2M - 1] int32 in [0, R), M = max_seqlen.
        cu_seqlens: [B + 1] int32; tokens cu_seqlens[b] to cu_seqlens[b + 1] are sequence b.
        max_seqlen: at least the longest sequence.

    Returns:
        [T, N, D]
    """
    outputs = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    bounds = cu_seqlens.tolist()
    for start, end in pairwise(bounds):
        queries, keys, values = (x[start:end].float().transpose(0, 1) for x in (q, k, v))
        at = torch.arange(end - start, device=q.device)
        rows = buckets.long()[at[:, None] - at + max_seqlen - 1].expand(q.shape[1], -1, -1)
        scores = queries @ keys.transpose(1, 2)
        if content_to_position is not None:
            scores += content_to_position[:, start:end].float().gather(2, rows)
        if position_to_content is not None:
            by_key = position_to_content[:, start:end].float().gather(2, rows.transpose(1, 2))
            scores += by_key.transpose(1, 2)
        outputs[start:end] = ((scores * scale).softmax(-1) @ values).transpose(0, 1)
    return outputs
