# SPDX-License-Identifier: BSD-3-Clause
"""Tokens of the pool, taken and put by slot and position."""

import pytest
import torch
from kernels import LAYOUTS, assert_equals_body, laid_out, run, sets_with
from torch import Tensor

NUM_SLOTS, NUM_POSITIONS = 40, 53
COUNTS = [1, 31, 33, 128, 129, 300]


def pool(layout: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_SLOTS, NUM_POSITIONS)
    return laid_out(torch.randint(50_000, shape, generator=generator, dtype=torch.int32), layout)


def places(count: int) -> tuple[Tensor, Tensor]:
    """Slots and positions, no place twice."""
    generator = torch.Generator().manual_seed(count)
    drawn = torch.randperm(NUM_SLOTS * NUM_POSITIONS, generator=generator)[:count].int()
    return drawn // NUM_POSITIONS, drawn % NUM_POSITIONS


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kernels", sets_with("take_tokens"))
def test_take_equals_body(kernels, count, layout):
    assert_equals_body(kernels, "take_tokens", pool(layout), *places(count))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kernels", sets_with("put_tokens"))
def test_put_equals_body(kernels, count, layout):
    slots, positions = places(count)
    slots[1::3] = -1
    tokens = torch.arange(60_000, 60_000 + count, dtype=torch.int32)
    assert_equals_body(kernels, "put_tokens", pool(layout), slots, positions, tokens)


@pytest.mark.parametrize("kernels", ["body", *sets_with("take_tokens")])
def test_taken_are_the_tokens_at_their_places(kernels):
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int32)
    slots, positions = torch.tensor([[1, 0, 0], [2, 0, 1]], dtype=torch.int32)
    assert run(kernels, "take_tokens", tokens, slots, positions)[0].tolist() == [6, 1, 2]


@pytest.mark.parametrize("kernels", ["body", *sets_with("put_tokens")])
def test_rows_that_fill_the_batch_put_nothing(kernels):
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int32)
    slots, positions, new = torch.tensor([[-1, 1, -1], [0, 2, 2], [7, 8, 9]], dtype=torch.int32)
    _, after = run(kernels, "put_tokens", tokens, slots, positions, new)
    assert after[0].tolist() == [[1, 2, 3], [4, 5, 8]]


@pytest.mark.parametrize("name", ["take_tokens", "put_tokens"])
@pytest.mark.parametrize("kernels", sets_with("take_tokens"))
def test_no_tokens(kernels, name):
    nobody = torch.empty(0, dtype=torch.int32)
    run(kernels, name, pool("contiguous"), *[nobody] * (2 if name == "take_tokens" else 3))
