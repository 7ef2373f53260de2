# SPDX-License-Identifier: BSD-3-Clause
"""Causal attention over the paged cache: prompts, chunks of prompts and single tokens in one batch."""

import torch
from torch import Tensor

from .registry import op


@op(out=lambda q, *_: torch.empty(q.shape, dtype=q.dtype, device=q.device))
def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    scale: float,
    window: int,
    soft_cap: float,
    alibi_slopes: Tensor | None,
) -> Tensor:
    """softmax(scale * q k^T + bias) v per head, fp32 inside; query i of a sequence sees keys up to its own.

    Args:
        q: [T, N, D], may be strided. k_cache, v_cache: [num_blocks, K, block_size, D]; head n reads
            key-value head n // (N / K).
        block_tables: [B, W] int32. seq_lens: [B] int32, keys of each sequence including this step's.
        cu_seqlens_q: [B + 1] int32; query i of sequence b has position seq_lens[b] - q_len + i.
        max_seqlen_q, max_seqlen_k: the largest of each, so that kernels need not read them back.
        window: a query sees at most this many keys, itself included; 0 sees all. (arXiv 2310.06825)
        soft_cap: c * tanh(score / c) before the softmax; 0 leaves it out. (arXiv 2408.00118)
        alibi_slopes: [N] float32, adds slope * (key - query position). (arXiv 2108.12409)

    Returns:
        [T, N, D]
    """
    outputs = []
    bounds = cu_seqlens_q.tolist()
    for row, length in enumerate(seq_lens.tolist()):
        queries = q[bounds[row] : bounds[row + 1]].float()
        keys = _gather(k_cache, block_tables[row], length, q.shape[1])
        values = _gather(v_cache, block_tables[row], length, q.shape[1])
        scores = torch.einsum("qnd,knd->nqk", queries, keys) * scale
        scores = torch.tanh(scores / soft_cap) * soft_cap if soft_cap else scores
        distance = _distance(queries.shape[0], length, q.device)
        if alibi_slopes is not None:
            scores = scores - alibi_slopes[:, None, None] * distance
        hidden = (distance < 0) | (distance >= (window or length))
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("nqk,knd->qnd", weights, values))
    return torch.cat(outputs).to(q.dtype)


def _gather(cache: Tensor, table: Tensor, length: int, num_heads: int) -> Tensor:
    """[length, N, D] float32: the sequence's rows of the cache, repeated for the query heads."""
    pages = table[: -(-length // cache.shape[2])].long()
    rows = cache[pages].transpose(1, 2).flatten(0, 1)[:length].float()
    return rows.repeat_interleave(num_heads // cache.shape[1], dim=1)


def _distance(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """[queries, keys] how far each key lies before its query; negative ones lie in the future."""
    positions = torch.arange(num_keys - num_queries, num_keys, device=device)
    return positions[:, None] - torch.arange(num_keys, device=device)
