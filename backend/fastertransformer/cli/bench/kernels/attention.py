# SPDX-License-Identifier: BSD-3-Clause
"""Cases: attention over the paged cache, decoding and of whole prompts, and of encoders; the peer is SDPA."""

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from ....models.spec import ModelSpec
from ....ops import attention_work, attention_workspace_size
from ....ops.attention import CHUNK_KEYS
from ..timing import Call
from .case import Arguments, Case, Inputs

BLOCK_SIZE = 16

DISENTANGLED_BUCKETS = 256
"""Of DeBERTa v3, for each sign."""

Heads = tuple[int, int, int]
"""Query heads, key-value heads, head size."""

OTHER_HEADS: tuple[Heads, ...] = ((32, 32, 64), (32, 32, 80), (32, 32, 96), (32, 1, 128))
"""That models have beyond those of the shapes."""


def heads_of(spec: ModelSpec) -> Heads:
    return spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim


def decode_cases(heads: Iterable[Heads], itemsize: int, sizes: Iterable[tuple[int, int]]) -> Iterator[Case]:
    """One query for each of `batch` sequences with `context` keys."""
    for of_model in heads:
        for batch, context in sizes:
            yield _case(of_model, itemsize, batch, 1, context)


def prefill_cases(heads: Iterable[Heads], itemsize: int, sizes: Iterable[tuple[int, int]]) -> Iterator[Case]:
    """`batch` prompts of `length` tokens."""
    for of_model in heads:
        for batch, length in sizes:
            yield _case(of_model, itemsize, batch, length, length)


def encoder_cases(heads: Iterable[Heads], itemsize: int, sizes: Iterable[tuple[int, int]]) -> Iterator[Case]:
    """`batch` sequences of `length` tokens that all see each other; every head has keys of its own."""
    for num_heads, _, dim in heads:
        for batch, length in sizes:
            yield Case(
                op="encoder_attention",
                sizes=f"{num_heads}x{dim} {batch}x{length}",
                make=partial(_encoder_arguments, num_heads, dim, batch, length),
                num_bytes=4 * batch * length * num_heads * dim * itemsize,
                flops=4 * num_heads * dim * batch * length**2,
                make_peer=partial(_encoder_sdpa, num_heads, dim, batch, length),
            )


def disentangled_cases(
    heads: Iterable[Heads], itemsize: int, sizes: Iterable[tuple[int, int]]
) -> Iterator[Case]:
    """The same with relative positions as contents of their own; the peer is given their scores as a mask."""
    for num_heads, _, dim in heads:
        for batch, length in sizes:
            rows = 2 * min(length, DISENTANGLED_BUCKETS)
            yield Case(
                op="disentangled_attention",
                sizes=f"{num_heads}x{dim} {batch}x{length}",
                make=partial(_disentangled_arguments, num_heads, dim, batch, length),
                num_bytes=batch * length * num_heads * (4 * dim + 2 * rows) * itemsize,
                flops=4 * num_heads * dim * batch * length**2,
                make_peer=partial(_masked_sdpa, num_heads, dim, batch, length),
            )


def _case(heads: Heads, itemsize: int, batch: int, queries: int, keys: int) -> Case:
    num_heads, kv_heads, dim = heads
    attended = batch * (queries * keys - queries * (queries - 1) // 2)
    elements = 2 * batch * queries * num_heads * dim + 2 * batch * keys * kv_heads * dim
    kind = "decode" if queries == 1 else "prefill"
    return Case(
        op="paged_attention",
        sizes=f"{kind} {num_heads}/{kv_heads}x{dim} {batch}x{keys}",
        make=partial(_arguments, heads, batch, queries, keys),
        num_bytes=elements * itemsize,
        flops=4 * num_heads * dim * attended,
        make_peer=partial(_sdpa, heads, batch, queries, keys),
    )


def _arguments(heads: Heads, batch: int, queries: int, keys: int, inputs: Inputs) -> Arguments:
    """Blocks of all sequences lie mixed in a cache that they fill."""
    num_heads, kv_heads, dim = heads
    per_sequence = -(-keys // BLOCK_SIZE)
    q = inputs.normal(batch * queries, num_heads, dim)
    caches = [inputs.normal(batch * per_sequence, kv_heads, BLOCK_SIZE, dim) for _ in range(2)]
    query_lens, seq_lens = (np.full(batch, size, np.int32) for size in (queries, keys))
    num_chunks = batch * -(-keys // CHUNK_KEYS)
    workspace = torch.zeros(attention_workspace_size(num_chunks, num_heads, dim), device=inputs.device)
    return (
        q,
        *caches,
        inputs.permutation(batch * per_sequence).view(batch, per_sequence),
        torch.from_numpy(seq_lens).to(inputs.device),
        torch.arange(0, (batch + 1) * queries, queries, dtype=torch.int32, device=inputs.device),
        torch.from_numpy(attention_work(query_lens, seq_lens, kv_heads)).to(inputs.device),
        workspace,
        queries,
        keys,
        dim**-0.5,
        0,
        0.0,
        None,
        None,
    )


def _encoder_arguments(num_heads: int, dim: int, batch: int, length: int, inputs: Inputs) -> Arguments:
    """Views of one product."""
    q, k, v = torch.chunk(inputs.normal(batch * length, 3 * num_heads, dim), 3, 1)
    bounds = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=inputs.device)
    return q, k, v, bounds, length, dim**-0.5, None


def _disentangled_arguments(num_heads: int, dim: int, batch: int, length: int, inputs: Inputs) -> Arguments:
    """Distances beyond the buckets share the last ones."""
    q, k, v, bounds, *_ = _encoder_arguments(num_heads, dim, batch, length, inputs)
    reach = min(length, DISENTANGLED_BUCKETS)
    scores = [inputs.normal(num_heads, batch * length, 2 * reach) for _ in range(2)]
    distances = torch.arange(1 - length, length, dtype=torch.int32, device=inputs.device)
    buckets = distances.clamp(-reach, reach - 1) + reach
    return q, k, v, *scores, buckets, bounds, length, (3 * dim) ** -0.5


def _masked_sdpa(num_heads: int, dim: int, batch: int, length: int, inputs: Inputs) -> Call:
    q, k, v = (inputs.normal(batch, num_heads, length, dim) for _ in range(3))
    mask = inputs.normal(batch, num_heads, length, length)
    return partial(scaled_dot_product_attention, q, k, v, attn_mask=mask)


def _encoder_sdpa(num_heads: int, dim: int, batch: int, length: int, inputs: Inputs) -> Call:
    q, k, v = (inputs.normal(batch, num_heads, length, dim) for _ in range(3))
    return partial(scaled_dot_product_attention, q, k, v)


def _sdpa(heads: Heads, batch: int, queries: int, keys: int, inputs: Inputs) -> Call:
    """The queries of a group are rows of one product when decoding: they see the same keys."""
    num_heads, kv_heads, dim = heads
    k, v = (inputs.normal(batch, kv_heads, keys, dim) for _ in range(2))
    if queries == 1:
        q = inputs.normal(batch, kv_heads, num_heads // kv_heads, dim)
        return partial(scaled_dot_product_attention, q, k, v)
    q = inputs.normal(batch, num_heads, queries, dim)
    grouped = num_heads != kv_heads
    return partial(scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=grouped)
