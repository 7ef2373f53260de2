# SPDX-License-Identifier: BSD-3-Clause
"""Rows of tables, bit by bit."""

import pytest
import torch
from kernels import DTYPES, LAYOUTS, assert_equals_body, laid_out, run, sets_with
from torch import Tensor

NUM_ROWS = 97
# (tokens, hidden size)
SHAPES = [(1, 1), (3, 31), (70, 33), (5, 96), (2, 2048), (9, 2056), (1, 4096)]


def table(size: int, dtype: torch.dtype, layout: str) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return laid_out(torch.randn(NUM_ROWS, size, generator=generator).to(dtype), layout)


def numbers(count: int) -> Tensor:
    """Of rows, the first and the last one among them."""
    generator = torch.Generator().manual_seed(count)
    drawn = torch.randint(NUM_ROWS, (count,), generator=generator, dtype=torch.int32)
    drawn[-1], drawn[0] = 0, NUM_ROWS - 1
    return drawn


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("embedding"))
def test_embedding_equals_body(kernels, dtype, shape, layout):
    count, size = shape
    assert_equals_body(kernels, "embedding", numbers(count), table(size, dtype, layout), scale=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("add_positions"))
def test_positions_equal_body(kernels, dtype, shape, layout):
    count, size = shape
    hidden = laid_out(table(size, dtype, "contiguous")[:count].flip(0), layout)
    given = (hidden, table(size, dtype, layout), numbers(count))
    assert_equals_body(kernels, "add_positions", *given, scale=0)


@pytest.mark.parametrize("kernels", ["body", *sets_with("embedding")])
def test_embedding_is_a_row_of_its_table(kernels):
    weight = table(16, torch.float16, "contiguous")
    result, _ = run(kernels, "embedding", numbers(7), weight)
    assert result.tolist() == [weight[number].tolist() for number in numbers(7)]


@pytest.mark.parametrize("kernels", ["body", *sets_with("add_positions")])
def test_positions_are_added_in_place(kernels):
    hidden, positions = torch.arange(12.0).view(3, 4), torch.tensor([2, 0, 2], dtype=torch.int32)
    rows = torch.tensor([[10.0] * 4, [20.0] * 4, [30.0] * 4])
    _, after = run(kernels, "add_positions", hidden, rows, positions)
    assert after[0].tolist() == [[30, 31, 32, 33], [14, 15, 16, 17], [38, 39, 40, 41]]


@pytest.mark.parametrize("kernels", sets_with("embedding"))
def test_no_tokens(kernels):
    nobody = torch.empty(0, dtype=torch.int32)
    assert run(kernels, "embedding", nobody, torch.ones(2, 8))[0].shape == (0, 8)


@pytest.mark.parametrize("kernels", sets_with("add_positions"))
def test_no_positions(kernels):
    nobody = torch.empty(0, dtype=torch.int32)
    run(kernels, "add_positions", torch.empty(0, 8), torch.ones(2, 8), nobody)
