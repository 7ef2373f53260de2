# SPDX-License-Identifier: BSD-3-Clause
"""Kernels one behind the other in CUDA graphs, where each may start before the one in front has ended."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernels import DTYPES, assert_close
from torch import Tensor

from fastertransformer import ops

pytestmark = pytest.mark.gpu

NUM_TOKENS, HIDDEN, NUM_ROWS, BLOCK_SIZE = 11, 64, 30, 4
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 2, 1, 16
EPS = 1e-5
CHAIN = 100
REPLAYS = 20


def contents(seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything a step reads, random; the last tokens only fill the batch."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    def drawn(count: int) -> Tensor:
        return torch.randperm(count, generator=generator)[:NUM_TOKENS].int()

    slots = drawn(NUM_ROWS)
    fills = torch.arange(NUM_TOKENS) >= NUM_TOKENS - 3
    pool = torch.randint(NUM_ROWS, (NUM_ROWS, NUM_ROWS), generator=generator, dtype=torch.int32)
    return {
        "pool": pool,
        "slots": slots.where(~fills, 0),
        "positions": drawn(NUM_ROWS - 1).where(~fills, 0),
        "put_slots": slots.where(~fills, -1),
        "slot_mapping": drawn(NUM_ROWS * BLOCK_SIZE).where(~fills, -1),
        "words": random(NUM_ROWS, HIDDEN),
        "places": random(NUM_ROWS, HIDDEN),
        "weight": random(HIDDEN),
        "bias": random(HIDDEN),
        "cos_sin": torch.randn(NUM_ROWS, HEAD_DIM, generator=generator),
        "k_cache": random(NUM_ROWS, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM),
        "v_cache": random(NUM_ROWS, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM),
        "next_positions": torch.full((NUM_TOKENS,), NUM_ROWS - 1, dtype=torch.int32),
    }


def step(given: dict[str, Tensor]) -> Tensor:
    """Every kernel reads what one before it wrote; changes the pool and the caches."""
    positions, weight, bias = given["positions"], given["weight"], given["bias"]
    ids = ops.take_tokens(given["pool"], given["slots"], positions)
    hidden = ops.embedding(ids, given["words"])
    ops.add_positions(hidden, given["places"], positions)
    normed = ops.layer_norm(hidden, weight, bias, EPS)
    active = ops.activation(normed, "gelu_tanh")
    ops.add(active, normed)
    normed = ops.add_rms_norm(active, hidden, weight, EPS, True)
    q, k, v = normed.view(NUM_TOKENS, -1, HEAD_DIM).split([NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS], 1)
    caches = (given["k_cache"], given["v_cache"], given["slot_mapping"])
    ops.rope_kv_write(q, k, v, positions, given["cos_sin"], True, *caches)
    ops.put_tokens(given["pool"], given["put_slots"], given["next_positions"], ids)
    return ops.add_layer_norm(q.flatten(1).repeat(1, 2), hidden, weight, bias, EPS, True)


def captured(function: Callable[..., Tensor], *arguments: Any) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """(graph, result): warmed up on a stream of its own first, as torch asks."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*arguments)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(*arguments)
    return graph, result


@pytest.mark.parametrize("dtype", DTYPES)
def test_replays_compute_with_new_contents(dtype):
    given = {name: value.cuda() for name, value in contents(0, dtype).items()}
    graph, result = captured(step, given)
    for seed in range(1, 5):
        expected = contents(seed, dtype)
        for name, value in expected.items():
            given[name].copy_(value)
        graph.replay()
        wanted = step(expected)
        assert_close(result.cpu(), wanted, 5.0)  # four roundings stand one behind the other
        for name, value in expected.items():
            assert_close(given[name].cpu(), value, 2.0)


def chain(x: Tensor, residual: Tensor, weight: Tensor, firsts: Tensor, synchronize: bool) -> Tensor:
    """[2, H] through short kernels, each of which reads all that the one in front wrote."""
    for _ in range(CHAIN):
        normed = ops.add_layer_norm(x, residual, weight, weight, EPS, True)
        active = ops.gated_activation(normed.view(1, -1), "silu")
        x = ops.embedding(firsts, active)
        if synchronize:
            torch.cuda.synchronize()
    return x


@pytest.mark.parametrize("dtype", DTYPES)
def test_overlap_changes_no_bit(dtype):
    """Their results' memory is used again after each round: what is read late or written early shows."""
    x, residual, weight = (torch.rand(2, 4096).mul(0.25).to(dtype).cuda() for _ in range(3))
    firsts = torch.zeros(2, dtype=torch.int32, device="cuda")
    given = (x, residual, weight[0], firsts)
    start = residual.clone()
    expected = chain(*given, True)
    assert bool(expected.isfinite().all())
    expected_residual = residual.clone()
    graph, result = captured(chain, *given, False)
    for _ in range(REPLAYS):
        residual.copy_(start)
        graph.replay()
        assert torch.equal(result, expected)
        assert torch.equal(residual, expected_residual)


def mlp_chain(
    x: Tensor, residual: Tensor, weight: Tensor, up: list[Tensor], down: list[Tensor], synchronize: bool
) -> Tensor:
    """[T, H] through norms and products in turn; weights come ahead while what they multiply is computed.

    Args:
        up, down: a matrix, or packed int8 and its scales.
    """
    for _ in range(CHAIN // 4):
        normed = ops.add_rms_norm(x, residual, weight, EPS, True)
        if len(up) == 1:
            x = ops.skinny_linear(ops.skinny_gated_linear(normed, *up, None, "silu"), *down, None)
        else:
            gated = ops.skinny_gated_linear_int8(normed, *up, None, "silu")
            x = ops.skinny_linear_int8(gated, *down, None)
        if synchronize:
            torch.cuda.synchronize()
    return x


def quantised(matrix: Tensor) -> list[Tensor]:
    """Packed int8 and scales."""
    return [
        ops.pack_int8((matrix * 100).clamp_(-127, 127).to(torch.int8)),
        torch.full((len(matrix),), 0.01).to(matrix.device),
    ]


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("rows", [1, 12, 64])
def test_overlap_with_products_changes_no_bit(dtype, is_int8, rows):
    generator = torch.Generator().manual_seed(rows)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).cuda()

    x, residual, weight = random(rows, 1024), random(rows, 1024), random(1024)
    matrices = random(2 * 2816, 1024).mul_(1 / 32), random(1024, 2816).mul_(1 / 53)
    up, down = (quantised(matrix) if is_int8 else [matrix] for matrix in matrices)
    start = residual.clone()
    torch.cuda.synchronize()  # weights are read before the kernel in front has ended
    expected = mlp_chain(x, residual, weight, up, down, True)
    assert bool(expected.isfinite().all())
    expected_residual = residual.clone()
    graph, result = captured(mlp_chain, x, residual, weight, up, down, False)
    for _ in range(REPLAYS):
        residual.copy_(start)
        graph.replay()
        assert torch.equal(result, expected)
        assert torch.equal(residual, expected_residual)
