# SPDX-License-Identifier: BSD-3-Clause
"""Tokens to their experts, the products by expert, and back."""

import pytest
import torch
from kernels import DTYPES, LAYOUTS, assert_equals_body, laid_out, run, sets_with
from torch import Tensor

HALF = [torch.bfloat16, torch.float16]
SIZES = [(1, 2, 8), (7, 2, 8), (64, 8, 60), (65, 4, 128), (300, 1, 3), (5, 6, 6)]
"""Tokens, experts of each, experts."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def chosen(num_tokens: int, top_k: int, num_experts: int) -> Tensor:
    """[T, k] int32; the last expert is nobody's where there are enough."""
    others = max(top_k, num_experts - 1)
    return random(num_tokens, others).topk(top_k).indices.int()


def grouped(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, places and offsets by the definition."""
    rows, offsets = experts.new_empty(experts.numel()), experts.new_empty(num_experts + 1)
    _, (_, rows, places, offsets) = run(
        "body", "group_by_expert", experts, rows, torch.empty_like(experts), offsets
    )
    return rows, places, offsets


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kernels", sets_with("route"))
def test_routes_equal_body(kernels, sizes, normalised, layout):
    num_tokens, top_k, num_experts = sizes
    logits = laid_out(random(num_tokens, num_experts) * 4, layout)
    shares, experts = torch.full((num_tokens, top_k), torch.nan), torch.full((num_tokens, top_k), -1).int()
    assert_equals_body(kernels, "route", logits, normalised, shares, experts)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kernels", ["body", *sets_with("group_by_expert")])
def test_pairs_lie_side_by_side_by_expert(kernels, sizes):
    num_tokens, top_k, num_experts = sizes
    experts = chosen(*sizes)
    num_pairs = experts.numel()
    rows, places = torch.full((num_pairs,), -1).int(), torch.full_like(experts, -1)
    offsets = torch.full((num_experts + 1,), -1).int()
    _, (_, rows, places, offsets) = run(kernels, "group_by_expert", experts, rows, places, offsets)
    assert torch.equal(offsets[1:] - offsets[:-1], experts.flatten().bincount(minlength=num_experts))
    assert sorted(places.flatten().tolist()) == list(range(num_pairs))
    of_place = torch.empty(num_pairs, dtype=torch.int32)
    of_place[places.flatten().long()] = experts.flatten()
    assert torch.equal(of_place, experts.flatten().sort().values)
    assert torch.equal(rows[places.long()], torch.arange(num_tokens).int()[:, None].expand(-1, top_k))


@pytest.mark.parametrize("shape", [(64, 64), (40, 200), (8, 8), (130, 1000)], ids=str)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kernels", sets_with("grouped_linear"))
def test_product_equals_body(kernels, dtype, sizes, shape):
    experts = chosen(*sizes)
    _, _, offsets = grouped(experts, sizes[2])
    x = laid_out(random(experts.numel(), shape[1]).to(dtype), "padded")
    weight = random(sizes[2], *shape, seed=1).mul_(shape[1] ** -0.5).to(dtype)
    assert_equals_body(kernels, "grouped_linear", x, weight, offsets)


@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("shape", [(64, 64), (80, 200), (8, 8), (130, 1000)], ids=str)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kernels", sets_with("grouped_gated_linear"))
def test_gated_product_equals_body(kernels, dtype, sizes, shape, kind):
    rows, _, offsets = grouped(chosen(*sizes), sizes[2])
    x = laid_out(random(sizes[0], shape[1]).to(dtype), "padded")
    weight = random(sizes[2], *shape, seed=1).mul_(shape[1] ** -0.5).to(dtype)
    assert_equals_body(kernels, "grouped_gated_linear", x, weight, rows, offsets, kind)


@pytest.mark.parametrize("has_shared", [True, False])
@pytest.mark.parametrize("columns", [1, 24, 1000, 4096])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("combine_experts"))
def test_combined_equal_body(kernels, dtype, sizes, columns, has_shared):
    num_tokens, top_k, num_experts = sizes
    _, places, _ = grouped(chosen(*sizes), num_experts)
    results = random(num_tokens * top_k, columns).to(dtype)
    shared = random(num_tokens, columns, seed=2).to(dtype) if has_shared else None
    shares = random(num_tokens, top_k, seed=1).softmax(-1)
    assert_equals_body(kernels, "combine_experts", results, places, shares, shared)


@pytest.mark.parametrize("kernels", sets_with("grouped_linear"))
def test_neighbours_change_no_bit(kernels):
    """A row's sums have one order, however many rows go to its expert."""
    x, weight = random(70, 512).bfloat16(), random(2, 96, 512, seed=1).bfloat16()
    together, _ = run(kernels, "grouped_linear", x, weight, torch.tensor([0, 70, 70]).int())
    for row in (0, 9, 69):
        alone, _ = run(kernels, "grouped_linear", x[row : row + 1], weight, torch.tensor([0, 1, 1]).int())
        assert torch.equal(alone[0], together[row])
