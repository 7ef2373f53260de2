# SPDX-License-Identifier: BSD-3-Clause
"""Bidirectional attention of sequences that lie one behind the other, without padding and without a cache."""

from itertools import pairwise

import torch
from torch import Tensor

from .registry import op


@op(out=lambda q, *_: torch.empty(q.shape, dtype=q.dtype, device=q.device))
def encoder_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    relative_bias: Tensor | None,
) -> Tensor:
    """softmax(scale * q k^T + bias) v per head, fp32 inside; a query sees every key of its sequence.

    Args:
        q, k, v: [T, N, D], may be strided views of one product.
        cu_seqlens: [B + 1] int32; tokens cu_seqlens[b] to cu_seqlens[b + 1] are sequence b.
        max_seqlen: the longest sequence, so that kernels need not read it back.
        relative_bias: [N, 2R + 1] float32, adds relative_bias[n, R + min(max(key - query, -R), R)].
            (Raffel et al., arXiv 1910.10683, whose buckets a table by distance holds exactly)

    Returns:
        [T, N, D]
    """
    outputs = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    bounds = cu_seqlens.tolist()
    for start, end in pairwise(bounds):
        queries, keys, values = (x[start:end].float().transpose(0, 1) for x in (q, k, v))
        scores = queries @ keys.transpose(1, 2) * scale
        if relative_bias is not None:
            scores += bias_by_distance(relative_bias, end - start)
        outputs[start:end] = (scores.softmax(-1) @ values).transpose(0, 1)
    return outputs


def bias_by_distance(relative_bias: Tensor, length: int) -> Tensor:
    """[N, 2R + 1] as of `encoder_attention` -> [N, length, length] of queries and keys."""
    reach = relative_bias.shape[1] // 2
    at = torch.arange(length, device=relative_bias.device)
    return relative_bias[:, (at - at[:, None]).clamp(-reach, reach) + reach]
