# SPDX-License-Identifier: BSD-3-Clause
"""Cases: what is done to every token of a step on its own; small, so launching weighs more than reading."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch

from ....models.spec import ModelSpec, Norm
from .attention import BLOCK_SIZE
from .case import Arguments, Case, Inputs

_POSITIONS = 2048
_INT_BYTES = 4


def tokenwise_cases(spec: ModelSpec, itemsize: int, tokens: Iterable[int]) -> Iterator[Case]:
    """Embedding, norms, cache writes, sums, pooling, activation, token pool: with every number of tokens."""
    for count in tokens:
        yield from _embeddings(spec, itemsize, count)
        yield from _norms(spec, itemsize, count)
        yield from _cache_writes(spec, itemsize, count)
        yield _add(spec.hidden_size, itemsize, count)
        yield _pool(spec.hidden_size, itemsize, count)
        yield _activation(spec, itemsize, count)
        yield from _token_pool(count)


def _embeddings(spec: ModelSpec, itemsize: int, count: int) -> Iterator[Case]:
    sizes, row_bytes = f"{count}x{spec.hidden_size}", spec.hidden_size * itemsize

    def words(inputs: Inputs) -> Arguments:
        return inputs.integers(spec.vocab_size, count), inputs.normal(spec.vocab_size, spec.hidden_size)

    def positions(inputs: Inputs) -> Arguments:
        hidden, table = inputs.normal(count, spec.hidden_size), inputs.normal(_POSITIONS, spec.hidden_size)
        return hidden, table, inputs.integers(_POSITIONS, count)

    yield Case(op="embedding", sizes=sizes, make=words, num_bytes=2 * count * row_bytes)
    if spec.rope is None:
        yield Case(op="add_positions", sizes=sizes, make=positions, num_bytes=3 * count * row_bytes)


def _norms(spec: ModelSpec, itemsize: int, count: int) -> Iterator[Case]:
    size = spec.hidden_size
    vectors = 1 if spec.norm is Norm.RMS else 2

    def make(rows: int, inputs: Inputs) -> Arguments:
        of_tokens = [inputs.normal(count, size) for _ in range(rows)]
        return (*of_tokens, *(inputs.normal(size) for _ in range(vectors)), spec.norm_eps)

    def make_of_sum(keeps_sum: bool, inputs: Inputs) -> Arguments:
        return (*make(2, inputs), keeps_sum)

    sizes, row_bytes, weight_bytes = f"{count}x{size}", count * size * itemsize, vectors * size * itemsize
    alone, of_sum = (partial(Case, op=op) for op in (spec.norm.value, f"add_{spec.norm.value}"))
    yield alone(sizes=sizes, make=partial(make, 1), num_bytes=2 * row_bytes + weight_bytes)
    yield of_sum(sizes=sizes, make=partial(make_of_sum, True), num_bytes=4 * row_bytes + weight_bytes)
    sizes += " sum not kept"
    yield of_sum(sizes=sizes, make=partial(make_of_sum, False), num_bytes=3 * row_bytes + weight_bytes)


def _cache_writes(spec: ModelSpec, itemsize: int, count: int) -> Iterator[Case]:
    """Reads q, k and v of one product; writes k and v to scattered slots, and q where it is rotated."""
    heads = [spec.num_attention_heads, spec.num_key_value_heads, spec.num_key_value_heads]
    sizes = f"{count}x{heads[0]}/{heads[1]}x{spec.head_dim}"
    kv_bytes = 2 * heads[1] * spec.head_dim * itemsize * count
    q_bytes = heads[0] * spec.head_dim * itemsize * count

    def caches(inputs: Inputs) -> Arguments:
        blocks = max(64, -(-count // BLOCK_SIZE))
        pair = (inputs.normal(blocks, heads[1], BLOCK_SIZE, spec.head_dim) for _ in range(2))
        return (*pair, inputs.permutation(blocks * BLOCK_SIZE)[:count])

    def kv_write(inputs: Inputs) -> Arguments:
        _, k, v = torch.split(inputs.normal(count, sum(heads), spec.head_dim), heads, 1)
        return (k, v, *caches(inputs))

    def rope(inputs: Inputs) -> Arguments:
        assert spec.rope is not None
        q, k, _ = torch.split(inputs.normal(count, sum(heads), spec.head_dim), heads, 1)
        table = inputs.uniform(_POSITIONS, spec.rope.rotary_dim)
        return q, k, inputs.integers(_POSITIONS, count), table, spec.rope.interleaved

    def rope_kv_write(inputs: Inputs) -> Arguments:
        q, _, *turns = rope(inputs)
        k, v, *targets = kv_write(inputs)
        return (q, k, v, *turns, *targets)

    # The bodies of cache writes look for rows that only fill the batch, on the host.
    write = partial(Case, sizes=sizes, capturable=False)
    yield write(op="kv_write", make=kv_write, num_bytes=2 * kv_bytes)
    if spec.rope is not None:
        turned = 2 * q_bytes + kv_bytes
        yield Case(op="rope", sizes=sizes, make=rope, num_bytes=turned)
        yield write(op="rope_kv_write", make=rope_kv_write, num_bytes=turned + kv_bytes)


def _add(size: int, itemsize: int, count: int) -> Case:
    def make(inputs: Inputs) -> Arguments:
        return inputs.normal(count, size), inputs.normal(count, size)

    return Case(op="add", sizes=f"{count}x{size}", make=make, num_bytes=3 * count * size * itemsize)


def _pool(size: int, itemsize: int, count: int) -> Case:
    """Of one sentence, to its mean in float32."""

    def make(inputs: Inputs) -> Arguments:
        bounds = torch.tensor([0, count], dtype=torch.int32, device=inputs.device)
        return inputs.normal(count, size), bounds, "mean"

    num_bytes = size * (count * itemsize + torch.float32.itemsize)
    return Case(op="pool", sizes=f"{count}x{size} mean", make=make, num_bytes=num_bytes)


def _activation(spec: ModelSpec, itemsize: int, count: int) -> Case:
    inputs_each = 2 if spec.gated_mlp else 1

    def make(inputs: Inputs) -> Arguments:
        return inputs.normal(count, inputs_each * spec.intermediate_size), spec.activation

    return Case(
        op="gated_activation" if spec.gated_mlp else "activation",
        sizes=f"{count}x{spec.intermediate_size} {spec.activation}",
        make=make,
        num_bytes=(inputs_each + 1) * count * spec.intermediate_size * itemsize,
    )


def _token_pool(count: int) -> Iterator[Case]:
    def make(inputs: Inputs) -> Arguments:
        pool = inputs.integers(1000, max(64, count), _POSITIONS)
        return pool, inputs.permutation(max(64, count))[:count], inputs.integers(_POSITIONS, count)

    def make_put(inputs: Inputs) -> Arguments:
        return (*make(inputs), inputs.integers(1000, count))

    num_bytes = 4 * count * _INT_BYTES
    yield Case(op="take_tokens", sizes=str(count), make=make, num_bytes=num_bytes)
    yield Case(op="put_tokens", sizes=str(count), make=make_put, num_bytes=num_bytes, capturable=False)
