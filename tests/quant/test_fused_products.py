# SPDX-License-Identifier: BSD-3-Clause
"""Products that are activated, or added up, are those of the same weights one step after the other."""

import itertools

import pytest
import torch
from torch import Tensor

from fastertransformer.layers.linear import JointLinear, Linear, LinearSum
from fastertransformer.ops import unpack_int8
from fastertransformer.ops.activation import FUNCTIONS
from fastertransformer.quant.base import Weight
from fastertransformer.quant.dense import DenseWeight
from fastertransformer.quant.int8 import Int8Weight

N, K, L = 24, 48, 32
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
ROWS = [1, 64, 65, 300]
"""On both sides of every border between kernels and torch's products."""


def normal(dtype: torch.dtype, device: str, *shape: int, seed: int) -> Tensor:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return tensor.to(device, dtype)


def held(kind: str, weight: Tensor) -> Weight:
    return DenseWeight(weight) if kind == "dense" else Int8Weight.from_float(weight, weight.abs().amax(1))


def product(weight: Weight, x: Tensor) -> Tensor:
    """In float64, with the weights as they are held."""
    if isinstance(weight, DenseWeight):
        matrix = weight.tensor
    else:
        matrix = unpack_int8(weight.values) * weight.scale[:, None]
    return x.double() @ matrix.double().T


def assert_near(result: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert result.dtype == dtype
    bound = TOLERANCES[dtype] * expected.abs().max().item()
    torch.testing.assert_close(result.double(), expected, atol=bound, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", ["dense", "int8"])
@pytest.mark.parametrize("rows", ROWS)
def test_activated(device, dtype, kind, rows):
    x, bias = normal(dtype, device, rows, K, seed=0), normal(dtype, device, N, seed=1)
    linear = Linear(held(kind, normal(dtype, device, N, K, seed=2)), bias)
    summed = product(linear.weight, x) + bias.double()
    for name, function in FUNCTIONS.items():
        assert_near(linear.activated(x, name), function(summed), dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kinds", list(itertools.product(["dense", "int8"], repeat=2)))
@pytest.mark.parametrize("biases", list(itertools.product([False, True], repeat=2)))
def test_joint(device, dtype, kinds, biases):
    weights = [held(kind, normal(dtype, device, n, K, seed=n)) for kind, n in zip(kinds, (N, L), strict=True)]
    both = [
        Linear(weight, normal(dtype, device, weight.num_rows, seed=1) if has_bias else None)
        for weight, has_bias in zip(weights, biases, strict=True)
    ]
    joint = JointLinear(*both)
    for rows in ROWS:
        x = normal(dtype, device, rows, K, seed=3)
        first, second = (
            product(linear.weight, x) + (0.0 if linear.bias is None else linear.bias.double())
            for linear in both
        )
        result, activated = joint(x, "gelu_tanh")
        assert_near(result, first, dtype)
        assert_near(activated, FUNCTIONS["gelu_tanh"](second), dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kinds", list(itertools.product(["dense", "int8"], repeat=2)))
@pytest.mark.parametrize("biases", list(itertools.product([False, True], repeat=2)))
def test_sums(device, dtype, kinds, biases):
    columns = (K, L)
    linears = [
        Linear(
            held(kinds[i], normal(dtype, device, N, columns[i], seed=2 + i)),
            normal(dtype, device, N, seed=4 + i) if biases[i] else None,
        )
        for i in range(2)
    ]
    both = LinearSum(*linears)
    for rows in ROWS:
        inputs = [normal(dtype, device, rows, size, seed=6) for size in columns]
        expected = sum(product(linear.weight, x) for linear, x in zip(linears, inputs, strict=True))
        expected = expected + sum(linear.bias.double() for linear in linears if linear.bias is not None)
        assert_near(both(*inputs), expected, dtype)
