# SPDX-License-Identifier: BSD-3-Clause
"""Products by the libraries behind torch are products, whatever rows and memory they have."""

import pytest
import torch
from torch import Tensor

from fastertransformer import ops
from fastertransformer.ops.activation import FUNCTIONS

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
N, K = 40, 96


def operands(device: str, dtype: torch.dtype, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, K), (N, K), (N,)
    x, weight, bias = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    return x, weight, bias


def assert_near(result: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    bound = TOLERANCES[dtype] * max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
    torch.testing.assert_close(result.double(), expected, atol=bound, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 200])
def test_linear(device, dtype, rows):
    x, weight, bias = operands(device, dtype, rows)
    product = x.double() @ weight.double().T
    result = ops.library_linear(x, weight, bias)
    assert result.dtype == dtype
    assert result.is_contiguous()
    assert_near(result, product + bias.double(), dtype)
    assert_near(ops.library_linear(x, weight, None), product, dtype)
    logits = ops.library_logits(x, weight)
    assert logits.dtype == torch.float32
    assert_near(logits, product, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_activated_linear(device, dtype, kind, has_bias):
    x, weight, bias = operands(device, dtype, 70)
    product = x.double() @ weight.double().T + (bias.double() if has_bias else 0.0)
    result = ops.library_activated_linear(x, weight, bias if has_bias else None, kind)
    assert_near(result, FUNCTIONS[kind](product), dtype)


@pytest.mark.gpu
def test_what_cublas_applies():
    x, _, bias = operands("cuda", torch.bfloat16, 70)
    assert {kind for kind in FUNCTIONS if ops.library_activates(x, bias, kind)} == {"gelu_tanh", "relu"}
    assert not any(ops.library_activates(x, None, kind) for kind in FUNCTIONS)
    assert not any(ops.library_activates(x.float(), bias, kind) for kind in FUNCTIONS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [64, 70])
def test_operands_that_lie_apart(device, rows):
    x, weight, bias = operands(device, torch.float32, rows)
    expected = x.double() @ weight.double().T + bias.double()
    apart = torch.full((rows, 3 * K), torch.nan, device=device)
    apart[:, K : 2 * K] = x
    x = apart[:, K : 2 * K]
    wide = torch.full((N, 2 * K), torch.nan, device=device)
    wide[:, :K] = weight
    for each in (weight, wide[:, :K], weight.T.contiguous().T):
        assert_near(ops.library_linear(x, each, bias), expected, torch.float32)


def test_only_float32_of_a_cpu_is_filled_up():
    cpu = torch.device("cpu")
    assert ops.library_rows(cpu, torch.float32) in (1, 64)
    assert ops.library_rows(cpu, torch.bfloat16) == 1
    assert ops.library_rows(torch.device("cuda"), torch.float32) == 1
