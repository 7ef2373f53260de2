# SPDX-License-Identifier: BSD-3-Clause
"""Causal attention over the paged cache: prompts, chunks of prompts and single tokens in one batch."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .registry import op

CHUNK_KEYS = 256
"""A sequence has at most one piece of work of a single query on a GPU for every so many keys."""
_MOST_CHUNK_KEYS = 1024
_CHUNK_KEYS_PER_HEAD = 64
TILE_QUERIES = 128
"""Queries of one piece of work of a prompt on a GPU."""


def attention_work(
    query_lens: npt.NDArray[np.int32], seq_lens: npt.NDArray[np.int32], num_kv_heads: int
) -> npt.NDArray[np.int32]:
    """[2, B + 1] how a GPU shares the work out, made once per step and used by every layer.

    The first row counts the chunks of keys of the sequences with a single query, the second the tiles of
    TILE_QUERIES queries of all others, both cumulative over the sequences. Chunks cost: the more heads there
    are to fill a GPU with, the fewer of them. They depend on the sequence and the model alone, so that a
    result does not depend on the neighbours.
    """
    is_single = query_lens == 1
    work = np.zeros((2, len(query_lens) + 1), np.int32)
    (num_key_chunks(seq_lens, num_kv_heads) * is_single).cumsum(out=work[0, 1:])
    (-(-query_lens // TILE_QUERIES) * ~is_single).cumsum(out=work[1, 1:])
    return work


def num_key_chunks(seq_lens: npt.NDArray[np.int32], num_kv_heads: int) -> npt.NDArray[np.int32]:
    """[B] into how many chunks the keys of a sequence with a single query are cut."""
    return -(-seq_lens // chunk_keys(num_kv_heads))


def chunk_keys(num_kv_heads: int) -> int:
    """How many keys a chunk has at most."""
    return min(max(_CHUNK_KEYS_PER_HEAD * num_kv_heads, CHUNK_KEYS), _MOST_CHUNK_KEYS)


def attention_workspace_size(num_chunks: int, num_heads: int, head_dim: int) -> int:
    """Float32 elements of scratch for partial results of chunks and, at the end, one counter for each.

    Zeroed once; kernels leave the counters zero. A scratch serves one number of heads and head size.
    """
    return num_chunks * num_heads * (head_dim + 3)


@op(out=lambda q, *_: torch.empty(q.shape, dtype=q.dtype, device=q.device))
def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    work: Tensor,
    workspace: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    scale: float,
    window: int,
    soft_cap: float,
    alibi_slopes: Tensor | None,
    relative_bias: Tensor | None,
) -> Tensor:
    """softmax(scale * q k^T + bias) v per head, fp32 inside; query i of a sequence sees keys up to its own.

    Args:
        q: [T, N, D], may be strided. k_cache, v_cache: [num_blocks, K, block_size, D]; head n reads
            key-value head n // (N / K).
        block_tables: [B, W] int32. seq_lens: [B] int32, keys of each sequence including this step's.
        cu_seqlens_q: [B + 1] int32; query i of sequence b has position seq_lens[b] - q_len + i.
        work: [2, B + 1] int32, see `attention_work`; workspace: float32 scratch, see
            `attention_workspace_size`. Only GPUs read them.
        max_seqlen_q, max_seqlen_k: the largest of each, so that kernels need not read them back.
        window: a query sees at most this many keys, itself included; 0 sees all. (arXiv 2310.06825)
        soft_cap: c * tanh(score / c) before the softmax; 0 leaves it out. (arXiv 2408.00118)
        alibi_slopes: [N] float32, adds slope * (key - query position). (arXiv 2108.12409)
        relative_bias: [N, R + 1] float32, adds relative_bias[n, R - min(query - key, R)]; not beside
            alibi_slopes. (Raffel et al., arXiv 1910.10683, whose buckets a table by distance holds exactly)

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
        if relative_bias is not None:
            reach = relative_bias.shape[1] - 1
            scores = scores + relative_bias[:, reach - distance.clamp(0, reach)]
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
