# SPDX-License-Identifier: BSD-3-Clause
"""Attention kernels against the body, at lengths around groups, tiles and chunks of keys and queries."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from attention_cases import NO_PAGE, Batch
from kernels import DTYPES, GPU, KERNEL_SETS, assert_close, run
from torch import Tensor

from fastertransformer import ops
from fastertransformer.ops.attention import CHUNK_KEYS, TILE_QUERIES
from fastertransformer.ops.registry import OPS

LENGTHS = [1, 15, 16, 17, 255, 256, 257, 1000]
SINGLE = Batch(query_lens=[1] * len(LENGTHS), seq_lens=LENGTHS)
PROMPTS = Batch(query_lens=[2, 15, 64, 65, 129, 40, 300], seq_lens=[2, 17, 64, 200, 129, 333, 300])
MIXED = Batch(query_lens=[1, 70, 1, 2, 1, 130], seq_lens=[40, 70, 600, 300, 1, 259])
SMALL = Batch(query_lens=[1, 33, 1, 130], seq_lens=[300, 40, 31, 140])
WORKSPACE = 7
"""Index of the workspace among the op's arguments."""


def attend(kernels: str, batch: Batch) -> Tensor:
    result, _ = run(kernels, "paged_attention", *batch.arguments())
    return result


def check(kernels: str, batch: Batch) -> None:
    """The kernel's result is the body's."""
    assert_close(attend(kernels, batch), OPS["paged_attention"].body(*batch.arguments()))


def rows_of(batch: Batch, result: Tensor) -> list[Tensor]:
    """The result of each sequence."""
    return list(torch.split(result, batch.query_lens))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [1, 2, 4, 8])
@pytest.mark.parametrize("num_heads", [8, 40])
def test_single_queries(kernels, dtype, group, num_heads):
    check(kernels, replace(SINGLE, dtype=dtype, num_heads=num_heads, num_kv_heads=num_heads // group))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [1, 2])
def test_prompts(kernels, dtype, group):
    check(kernels, replace(PROMPTS, dtype=dtype, num_heads=2, num_kv_heads=2 // group))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [8, 16, 24, 64, 72, 80, 96, 100, 128, 160, 256])
def test_head_sizes(kernels, dtype, head_dim):
    check(kernels, replace(SMALL, dtype=dtype, head_dim=head_dim))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("block_size", [1, 5, 8, 16, 24, 64])
@pytest.mark.parametrize("head_dim", [64, 256])
def test_block_sizes(kernels, block_size, head_dim):
    check(kernels, replace(SMALL, block_size=block_size, head_dim=head_dim))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("heads", [(3, 1), (9, 1), (16, 2), (23, 1)])
def test_groups_that_are_no_multiple_of_eight(kernels, heads):
    check(kernels, replace(SMALL, num_heads=heads[0], num_kv_heads=heads[1]))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [1, 7, 64, 257, 10_000])
def test_windows(kernels, dtype, window):
    check(kernels, replace(MIXED, dtype=dtype, window=window))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("window", [0, 1100])
def test_long_chunks(kernels, window):
    lengths = [1024, 1025, 2049, 7, 3000]
    long = Batch(query_lens=[1] * len(lengths), seq_lens=lengths, num_heads=16, num_kv_heads=16)
    check(kernels, replace(long, window=window))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("soft_cap", "has_alibi", "window"), [(2.0, False, 0), (0.0, True, 0), (0.5, True, 50)]
)
def test_what_scores_go_through(kernels, dtype, soft_cap, has_alibi, window):
    check(kernels, replace(MIXED, dtype=dtype, soft_cap=soft_cap, has_alibi=has_alibi, window=window))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("reach", "soft_cap", "window"), [(1, 0.0, 0), (128, 0.0, 0), (1000, 0.5, 50)])
def test_relative_bias(kernels, dtype, reach, soft_cap, window):
    check(kernels, replace(MIXED, dtype=dtype, relative_reach=reach, soft_cap=soft_cap, window=window))


def test_relative_bias_is_added_by_distance():
    batch = Batch(query_lens=[1], seq_lens=[3], dtype=torch.float32, relative_reach=1)
    far, near = torch.tensor([[0.0, 50.0], [50.0, 0.0], [0.0, 0.0], [0.0, 50.0]]).T
    arguments = batch.arguments()
    arguments[-1] = torch.stack((far, near), 1)
    [result] = OPS["paged_attention"].body(*arguments)
    values = arguments[2][arguments[3][0, :1].long()][0, :, :3]
    torch.testing.assert_close(result[0], values[0, 2])  # head 0: its own key alone
    plain = OPS["paged_attention"].body(*arguments[:-1], None)[0]
    torch.testing.assert_close(result[2], plain[2])


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [SINGLE, PROMPTS, MIXED], ids=["single", "prompts", "mixed"])
def test_a_sequence_gets_the_same_alone(kernels, dtype, batch):
    """Bit for bit, in whatever company."""
    batch = replace(batch, dtype=dtype, seeds=list(range(len(batch.seq_lens))))
    together = rows_of(batch, attend(kernels, batch))
    for index, rows in enumerate(together):
        one = slice(index, index + 1)
        parts = {name: getattr(batch, name)[one] for name in ("query_lens", "seq_lens", "seeds")}
        assert torch.equal(attend(kernels, replace(batch, **parts)), rows)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("head_dim", [64, 256])
def test_a_prompt_gets_the_same_in_chunks(kernels, dtype, window, head_dim):
    """Bit for bit, wherever it is cut (a chunk of one query is another computation)."""
    length = 300
    shape = {"dtype": dtype, "window": window, "head_dim": head_dim}
    whole = Batch(query_lens=[length], seq_lens=[length], seeds=[0], **shape)
    expected = attend(kernels, whole)
    for cut in (2, 64, 129):
        first, second = (replace(whole, query_lens=[end - start]) for start, end in ((0, cut), (cut, length)))
        arguments = first.arguments()
        # The first chunk's sequence ends at the cut; its keys are those of the whole.
        arguments[0] = whole.arguments()[0][:cut]
        arguments[4] = torch.tensor([cut], dtype=torch.int32)
        result, _ = run(kernels, "paged_attention", *arguments)
        assert torch.equal(torch.cat([result, attend(kernels, second)]), expected)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("window", [0, 20])
def test_the_counters_stay_zero(kernels, window):
    """Kernels leave their part of the workspace as they found it, and do not mind partial results in it."""
    batch = replace(SINGLE, window=window)
    arguments = batch.arguments()
    num_counters = ops.attention_workspace_size(int(arguments[6][0, -1]), batch.num_heads, 0) // 3
    arguments[WORKSPACE][:-num_counters] = torch.nan
    result, after = run(kernels, "paged_attention", *arguments)
    assert_close(result, OPS["paged_attention"].body(*arguments))
    assert not after[WORKSPACE][-num_counters:].view(torch.int32).any()


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_rows_that_fill_up_a_batch(kernels):
    """Sequences without queries and tokens of no sequence, as in a graph that is made for more."""
    arguments = MIXED.arguments()
    expected = OPS["paged_attention"].body(*arguments)
    num_tokens, extra = len(expected), 3
    arguments[0] = torch.cat([arguments[0], torch.full_like(arguments[0][:extra], torch.nan)])
    arguments[3] = torch.cat([arguments[3], torch.full_like(arguments[3][:2], NO_PAGE)])
    query_lens, seq_lens = ([*lengths, 0, 0] for lengths in (MIXED.query_lens, MIXED.seq_lens))
    arguments[4] = torch.tensor(seq_lens, dtype=torch.int32)
    arguments[5] = torch.tensor([0, *np.cumsum(query_lens)], dtype=torch.int32)
    lengths = np.array(query_lens, np.int32), np.array(seq_lens, np.int32)
    arguments[6] = torch.from_numpy(ops.attention_work(*lengths, MIXED.num_kv_heads))
    result, _ = run(kernels, "paged_attention", *arguments)
    assert_close(result[:num_tokens], expected)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [{}, {"head_dim": 80}, {"relative_reach": 9}], ids=str)
def test_a_graph_of_prompts_with_single_queries_alone(kernels, dtype, shape):
    """max_seqlen_q is what there may be; a chunk of a prompt may have one query."""
    arguments = replace(SINGLE, dtype=dtype, **shape).arguments()
    expected, _ = run(kernels, "paged_attention", *arguments)
    arguments[8] = 64
    result, _ = run(kernels, "paged_attention", *arguments)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_wrong_arguments_are_named(kernels):
    for index, name, wrong in (
        (2, "v_cache", torch.zeros(1, 2, 16, 64)),
        (3, "block_tables", torch.zeros(len(MIXED.seq_lens), 1, dtype=torch.int64)),
        (4, "seq_lens", torch.zeros(2, 2, dtype=torch.int32)),
    ):
        arguments = MIXED.arguments()
        arguments[index] = wrong
        with pytest.raises(ValueError, match=name):
            run(kernels, "paged_attention", *arguments)


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [SINGLE, MIXED], ids=["single", "mixed"])
def test_a_graph_can_be_replayed_with_other_contents(kernels, dtype, batch):
    """One graph for a bucket: the tensors' contents change, their addresses and sizes do not."""
    batch = replace(batch, dtype=dtype)
    steps = [
        replace(batch, seq_lens=[max(length // step, count) for length, count in _lengths(batch)], seeds=[])
        for step in (1, 2, 3, 40)
    ]
    held = [_to(kernels, argument) for argument in steps[0].arguments()]
    result = torch.empty(held[0].shape, dtype=dtype, device=kernels)
    _launch(result, held)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _launch(result, held)
    for step in steps:
        arguments = step.arguments()
        for index, argument in enumerate(arguments):
            if isinstance(argument, Tensor) and index != WORKSPACE:
                held[index][tuple(map(slice, argument.shape))] = argument.to(kernels)
        for _ in range(2):
            graph.replay()
        assert_close(result.cpu(), OPS["paged_attention"].body(*arguments))


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_a_batch_that_fills_the_device(kernels, dtype, head_dim):
    """Large batches take wider tiles; a row gets the same as in a small one, bit for bit."""
    shape = {"num_heads": 64, "num_kv_heads": 8, "head_dim": head_dim, "dtype": dtype, "seeds": [1, 2]}
    large = Batch(query_lens=[1100, 1], seq_lens=[1300, 700], **shape)
    small = Batch(query_lens=[60, 1], seq_lens=[1300, 700], **shape)
    result = attend(kernels, large)
    expected = OPS["paged_attention"].body(*(_to(kernels, argument) for argument in large.arguments()))
    assert_close(result, expected.cpu())
    assert torch.equal(result[-61:], attend(kernels, small))


@pytest.mark.parametrize("kernels", [GPU])
def test_the_newest_key_is_of_the_kernel_before(kernels):
    """Kernels may start early, and read older keys before the newest are written."""
    arguments = replace(SINGLE, dtype=torch.bfloat16).arguments()
    expected = OPS["paged_attention"].body(*arguments)
    q, k_cache, v_cache, tables, seq_lens, *rest = (_to(kernels, argument) for argument in arguments)
    last, block_size = seq_lens.long() - 1, k_cache.shape[2]
    blocks, offsets = tables[range(len(last)), last // block_size], last % block_size
    k, v = k_cache[blocks, :, offsets], v_cache[blocks, :, offsets]
    k_cache[blocks, :, offsets] = v_cache[blocks, :, offsets] = torch.nan
    slots = (blocks * block_size + offsets).int()
    results = []
    for keys, values in [(k_cache.clone(), v_cache.clone()) for _ in range(8)]:
        ops.kv_write(k, v, keys, values, slots)
        results.append(ops.paged_attention(q, keys, values, tables, seq_lens, *rest))
    for result in results:
        assert_close(result.cpu(), expected)


def _lengths(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.seq_lens, batch.query_lens, strict=True))


def _to(device: str, argument: object) -> object:
    return argument.to(device) if isinstance(argument, Tensor) else argument


def _launch(result: Tensor, arguments: list[object]) -> None:
    from fastertransformer import _C

    _C.cuda.paged_attention(result, *arguments, torch.cuda.current_stream().cuda_stream)


def test_the_work_is_counted_by_sequence():
    query_lens = np.array([1, TILE_QUERIES + 1, 1, 0], np.int32)
    seq_lens = np.array([CHUNK_KEYS + 1, 2 * TILE_QUERIES, CHUNK_KEYS, 0], np.int32)
    assert ops.attention_work(query_lens, seq_lens, 2).tolist() == [[0, 2, 2, 3, 3], [0, 0, 2, 2, 2]]


@pytest.mark.parametrize(("num_kv_heads", "chunk_keys"), [(1, 256), (8, 512), (32, 1024), (40, 1024)])
def test_many_heads_have_long_chunks(num_kv_heads, chunk_keys):
    for length, count in ((chunk_keys, 1), (chunk_keys + 1, 2), (9 * chunk_keys, 9)):
        work = ops.attention_work(np.ones(1, np.int32), np.array([length], np.int32), num_kv_heads)
        assert work[0].tolist() == [0, count]
