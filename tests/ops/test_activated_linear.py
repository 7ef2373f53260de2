# SPDX-License-Identifier: BSD-3-Clause
"""Products of many rows with an activation behind them, against their body."""

import pytest
import torch
from kernels import DTYPES, GPU, assert_equals_body, laid_out, needs_warpgroup_products, run
from torch import Tensor

from fastertransformer import _C
from fastertransformer.ops import activated_rows
from fastertransformer.ops.activation import FUNCTIONS
from fastertransformer.ops.registry import OPS

SHAPES = [
    (1, 8, 384),
    (129, 200, 576),
    (300, 1000, 768),
    (1300, 3072, 832),
    (2050, 1496, 512),
    (2050, 3000, 384),
    (2050, 3000, 768),
    (4400, 104, 4096),
    (4400, 1800, 768),
]
"""[M, N, K]: tokens and columns that end inside of tiles, fewer tiles than blocks and several for each, all
kinds of tiles, and more tokens than pass over the weight together."""


def operands(dtype: torch.dtype, rows: int, n: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, k, generator=generator)
    weight = torch.randn(n, k, generator=generator) * k**-0.5
    return x.to(dtype), weight.to(dtype), torch.randn(n, generator=generator).to(dtype)


def launch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = OPS["activated_linear"].out(x, weight, bias, "gelu")
    _C.cuda.activated_linear(out, x, weight, bias, "gelu", torch.cuda.current_stream().cuda_stream)
    return out


@pytest.fixture(autouse=True)
def _needs_warpgroups() -> None:
    needs_warpgroup_products()


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("rows", "n", "k"), SHAPES)
def test_products(kernels, dtype, has_bias, rows, n, k):
    x, weight, bias = operands(dtype, rows, n, k)
    assert_equals_body(kernels, "activated_linear", x, weight, bias if has_bias else None, "gelu")


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize(("n", "k"), [(3000, 384), (1496, 512), (3000, 768)])
def test_every_activation(kernels, dtype, activation, n, k):
    assert_equals_body(kernels, "activated_linear", *operands(dtype, 2050, n, k), activation)


@pytest.mark.parametrize("kernels", [GPU])
def test_rows_that_lie_apart(kernels):
    x, weight, bias = operands(torch.bfloat16, 200, 208, 512)
    x, weight = laid_out(x, "padded"), laid_out(weight, "padded")
    assert_equals_body(kernels, "activated_linear", x, weight, laid_out(bias, "misaligned"), "silu")


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize(("rows", "k"), [(700, 640), (2050, 384), (2050, 768)])
def test_a_row_is_the_same_among_others(kernels, rows, k):
    x, weight, bias = operands(torch.bfloat16, rows, 3000, k)
    whole, _ = run(kernels, "activated_linear", x, weight, bias, "gelu")
    part, _ = run(kernels, "activated_linear", x[300:301].contiguous(), weight, bias, "gelu")
    assert torch.equal(whole[300:301], part)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "n", "k"), [("x", 32, 320), ("x", 32, 400), ("weight", 12, 384)])
def test_sizes_that_no_tile_has(name, n, k):
    x, weight, bias = (each.cuda() for each in operands(torch.bfloat16, 4, n, k))
    with pytest.raises(ValueError, match=rf"activated_linear.*{name}"):
        launch(x, weight, bias)
    assert activated_rows(weight) is None


@pytest.mark.gpu
def test_biases_of_another_size_or_type():
    x, weight, bias = (each.cuda() for each in operands(torch.bfloat16, 4, 32, 384))
    for other in (bias[:24], bias.half(), bias.cpu()):
        with pytest.raises(ValueError, match=r"activated_linear.*bias"):
            launch(x, weight, other)


@pytest.mark.gpu
def test_weights_that_fit():
    weight = torch.zeros(24, 384, device="cuda")
    assert activated_rows(weight) is None
    assert activated_rows(weight.half()) == activated_rows(weight.bfloat16()) == 2048


@pytest.mark.gpu
def test_no_rows():
    x, weight, bias = (each.cuda() for each in operands(torch.bfloat16, 0, 32, 384))
    assert launch(x, weight, bias).shape == (0, 32)
