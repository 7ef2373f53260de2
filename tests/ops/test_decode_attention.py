# SPDX-License-Identifier: BSD-3-Clause
"""Rotation, cache write and attention in one op, against its body and against the ops that it stands for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_cases import Batch
from kernels import DTYPES, GPU, assert_close, run
from torch import Tensor

LENGTHS = [1, 15, 16, 17, 31, 300, 1500]
FILLS = 2
"""Tokens of no sequence at the end, as in a graph that is made for more."""
BATCH = Batch(query_lens=[1] * len(LENGTHS), seq_lens=LENGTHS)
CACHES = slice(6, 8)
"""Index of the caches among the op's arguments."""
SHAPES = [
    {"num_heads": 4, "num_kv_heads": 4},
    {"num_heads": 8, "num_kv_heads": 2},
    {"num_heads": 23, "num_kv_heads": 1},
]
# (head_dim, rotary_dim): whole heads, parts, parts that split no pack or no pair of words, none.
ROTATIONS = [
    (64, 64),
    (80, 32),
    (80, 20),
    (96, 24),
    (128, 128),
    (128, 64),
    (256, 64),
    (72, 36),
    (64, 6),
    (64, 0),
]


def arguments_of(batch: Batch, rotary_dim: int = 0, interleaved: bool = False) -> list[Any]:
    """The op's arguments: the newest keys and values are in their tensors alone, NaN where they will lie."""
    q, k_cache, v_cache, tables, seq_lens, bounds, work, workspace, _, *rest = batch.arguments()
    newest = seq_lens.long() - 1
    blocks, offsets = tables[range(len(newest)), newest // batch.block_size].long(), newest % batch.block_size
    k, v = (cache[blocks, :, offsets] for cache in (k_cache, v_cache))
    k_cache[blocks, :, offsets] = v_cache[blocks, :, offsets] = torch.nan
    heads = torch.cat([q, k, v], 1)
    heads = torch.cat([heads, torch.full_like(heads[:FILLS], torch.nan)])
    positions, slots = newest.int(), (blocks * batch.block_size + offsets).int()
    generator = torch.Generator().manual_seed(rotary_dim)
    angles = torch.rand(max(batch.seq_lens), rotary_dim // 2, generator=generator) * 7
    return [
        *heads.split([batch.num_heads, batch.num_kv_heads, batch.num_kv_heads], 1),
        torch.cat([positions, positions.new_zeros(FILLS)]),
        torch.cat((angles.cos(), angles.sin()), 1) if rotary_dim else None,
        interleaved,
        k_cache,
        v_cache,
        torch.cat([slots, slots.new_full((FILLS,), -1)]),
        *(tables, seq_lens, bounds, work, workspace, *rest),
    ]


def check(kernels: str, arguments: list[Any], num_sequences: int) -> None:
    """Results of sequences, and all of the caches, are the body's."""
    result, after = run(kernels, "decode_attention", *arguments)
    expected, expected_after = run("body", "decode_attention", *with_sequences(arguments, num_sequences))
    assert result is not None
    assert expected is not None
    assert_close(result[:num_sequences], expected)
    for actual, wanted in zip(after[CACHES], expected_after[CACHES], strict=True):
        assert_close(actual, wanted)


def with_sequences(arguments: list[Any], count: int) -> list[Any]:
    """Without the tokens of no sequence."""
    q, k, v, positions, table, interleaved, k_cache, v_cache, slots, *rest = arguments
    rows = [tensor[:count] for tensor in (q, k, v, positions)]
    return [*rows, table, interleaved, k_cache, v_cache, slots[:count], *rest]


def separately(kernels: str, arguments: list[Any]) -> tuple[Tensor, list[Any]]:
    """(result, caches afterwards) of the kernels that the op stands for."""
    q, k, v, positions, table, interleaved, *caches, slots, tables = arguments[:10]
    if table is None:
        _, (_, _, *caches, _) = run(kernels, "kv_write", k, v, *caches, slots)
    else:
        given = (q, k, v, positions, table, interleaved, *caches, slots)
        _, (q, *_, k_cache, v_cache, _) = run(kernels, "rope_kv_write", *given)
        caches = [k_cache, v_cache]
    seq_lens, bounds, work, workspace, *rest = arguments[10:]
    given = (q, *caches, tables, seq_lens, bounds, work, workspace, 1, *rest)
    result, _ = run(kernels, "paged_attention", *given)
    assert result is not None
    return result, caches


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", SHAPES)
@pytest.mark.parametrize(("head_dim", "rotary_dim"), ROTATIONS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_kernels_equal_bodies(kernels, dtype, heads, head_dim, rotary_dim, interleaved):
    batch = replace(BATCH, dtype=dtype, head_dim=head_dim, **heads)
    check(kernels, arguments_of(batch, rotary_dim, interleaved), len(LENGTHS))


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", SHAPES)
@pytest.mark.parametrize(
    "scores",
    [
        {"window": 1},
        {"window": 20},
        {"window": 257},
        {"soft_cap": 2.0},
        {"has_alibi": True},
        {"relative_reach": 100},
        {"relative_reach": 5, "soft_cap": 0.5, "window": 50},
        {"block_size": 5},
        {"block_size": 64},
    ],
)
def test_what_scores_go_through(kernels, dtype, heads, scores):
    check(kernels, arguments_of(replace(BATCH, dtype=dtype, **heads, **scores), 32), len(LENGTHS))


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("heads", SHAPES)
@pytest.mark.parametrize(("head_dim", "rotary_dim"), ROTATIONS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_bits_are_those_of_the_separate_kernels(kernels, dtype, heads, head_dim, rotary_dim, interleaved):
    """A token is the same, whether a step has longer sequences beside its own or not."""
    given = arguments_of(replace(BATCH, dtype=dtype, head_dim=head_dim, **heads), rotary_dim, interleaved)
    result, after = run(kernels, "decode_attention", *given)
    expected, caches = separately(kernels, given)
    assert torch.equal(result[: len(LENGTHS)], expected[: len(LENGTHS)])
    for actual, wanted in zip(after[CACHES], caches, strict=True):
        assert torch.equal(actual.view(torch.uint8), wanted.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rotary_dim", [0, 32])
def test_the_body_is_that_of_the_separate_ops(dtype, rotary_dim):
    given = with_sequences(arguments_of(replace(BATCH, dtype=dtype), rotary_dim), len(LENGTHS))
    result, after = run("body", "decode_attention", *given)
    expected, caches = separately("body", given)
    assert_close(result, expected)
    for actual, wanted in zip(after[CACHES], caches, strict=True):
        assert_close(actual, wanted)
    assert bool(result.isfinite().all())


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_arguments_are_named(kernels, dtype):
    for index, name, wrong in (
        (1, "k", torch.zeros(3, 2, 64, dtype=dtype)),
        (7, "v_cache", torch.zeros(1, 2, 16, 64, dtype=dtype)),
        (8, "slot_mapping", torch.zeros(len(LENGTHS) + FILLS, dtype=torch.int64)),
        (9, "block_tables", torch.zeros(len(LENGTHS), 1, dtype=torch.int64)),
    ):
        arguments = arguments_of(replace(BATCH, dtype=dtype), 32)
        arguments[index] = wrong
        with pytest.raises(ValueError, match=f"decode_attention: {name}"):
            run(kernels, "decode_attention", *arguments)
