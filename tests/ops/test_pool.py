# SPDX-License-Identifier: BSD-3-Clause
"""Rows of sequences put together, against sums in double precision."""

import pytest
import torch
from kernels import DTYPES, LAYOUTS, assert_close, assert_equals_body, laid_out, run, sets_with
from torch import Tensor

LENGTHS = [(1,), (16,), (5, 0, 17, 1, 300), (128,) * 9]
# Rows of single elements, of less than a warp's packs, of several blocks.
SIZES = [1, 33, 96, 768, 1032]


def tokens(lengths: tuple[int, ...], size: int, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return laid_out(torch.randn(sum(lengths), size, generator=generator).to(dtype), layout)


def bounds(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor((0, *lengths)).cumsum(0).int()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("pool"))
def test_kernel_equals_body(kernels, dtype, lengths, size, layout):
    for how in ("mean", "sum", "max"):
        given = tokens(lengths, size, dtype, layout), bounds(lengths), how
        assert_equals_body(kernels, "pool", *given)


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@pytest.mark.parametrize("kernels", ["body", *sets_with("pool")])
def test_formula(kernels, how):
    lengths = (3, 0, 200)
    given = tokens(lengths, 40, torch.bfloat16)
    result, _ = run(kernels, "pool", given, bounds(lengths), how)
    reduced = {"mean": Tensor.mean, "sum": Tensor.sum, "max": Tensor.amax}[how]
    for row, part in zip(result, given.double().split(lengths), strict=True):
        assert_close(row, (reduced(part, 0) if len(part) else torch.zeros(40)).float())


@pytest.mark.parametrize("kernels", sets_with("pool"))
def test_a_sequence_is_the_same_alone(kernels):
    lengths = (77, 500, 3)
    given = tokens(lengths, 96, torch.float16)
    together, _ = run(kernels, "pool", given, bounds(lengths), "mean")
    for row, part in zip(together, given.split(lengths), strict=True):
        alone, _ = run(kernels, "pool", part.clone(), bounds((len(part),)), "mean")
        assert torch.equal(alone[0], row)


@pytest.mark.gpu
def test_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="pool: how is median; expected mean, sum or max"):
        run("cuda", "pool", torch.ones(2, 8), bounds((2,)), "median")
