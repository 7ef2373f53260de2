# SPDX-License-Identifier: BSD-3-Clause
"""Products of many rows whose first half gates the second, against their body."""

import pytest
import torch
from kernels import DTYPES, GPU, assert_equals_body, laid_out, needs_warpgroup_products, run
from torch import Tensor

from fastertransformer import _C
from fastertransformer.ops import gated_rows
from fastertransformer.ops.registry import OPS

ACTIVATIONS = ["gelu", "gelu_tanh", "relu", "silu"]
SHAPES = [
    (1, 16, 384),
    (129, 192, 448),
    (256, 208, 1024),
    (300, 2 * 968, 384),
    (1000, 2 * 1000, 832),
    (2050, 2 * 3000, 512),
    (4400, 2 * 104, 4096),
]
"""[M, N, K]: tokens and columns that end inside of tiles, fewer tiles than blocks and several for each, and
more tokens than pass over the weight together."""


def operands(dtype: torch.dtype, rows: int, n: int, k: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, k, generator=generator)
    weight = torch.randn(n, k, generator=generator) * k**-0.5
    return x.to(dtype), weight.to(dtype)


@pytest.fixture(autouse=True)
def _needs_warpgroups() -> None:
    needs_warpgroup_products()


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize(("rows", "n", "k"), SHAPES)
def test_products(kernels, dtype, rows, n, k):
    assert_equals_body(kernels, "gated_linear", *operands(dtype, rows, n, k), "silu")


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(kernels, activation):
    assert_equals_body(kernels, "gated_linear", *operands(torch.float16, 260, 400, 384), activation)


@pytest.mark.parametrize("kernels", [GPU])
def test_rows_that_lie_apart(kernels):
    x, weight = operands(torch.bfloat16, 200, 208, 384)
    assert_equals_body(
        kernels, "gated_linear", laid_out(x, "padded"), laid_out(weight, "padded"), "gelu_tanh"
    )


@pytest.mark.parametrize("kernels", [GPU])
def test_a_row_is_the_same_among_others(kernels):
    x, weight = operands(torch.bfloat16, 700, 2 * 1000, 640)
    whole, _ = run(kernels, "gated_linear", x, weight, "silu")
    part, _ = run(kernels, "gated_linear", x[300:301].contiguous(), weight, "silu")
    assert torch.equal(whole[300:301], part)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "n", "k"), [("x", 32, 320), ("x", 32, 400), ("weight", 24, 384)])
def test_sizes_that_no_tile_has(name, n, k):
    x, weight = (each.cuda() for each in operands(torch.bfloat16, 4, n, k))
    out = OPS["gated_linear"].out(x, weight, "silu")
    with pytest.raises(ValueError, match=rf"gated_linear.*{name}"):
        _C.cuda.gated_linear(out, x, weight, "silu", torch.cuda.current_stream().cuda_stream)
    assert gated_rows(weight) is None


@pytest.mark.gpu
def test_no_rows():
    x, weight = (each.cuda() for each in operands(torch.bfloat16, 0, 32, 384))
    out = OPS["gated_linear"].out(x, weight, "silu")
    _C.cuda.gated_linear(out, x, weight, "silu", torch.cuda.current_stream().cuda_stream)
    assert out.shape == (0, 16)
