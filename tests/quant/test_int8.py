# SPDX-License-Identifier: BSD-3-Clause
"""Int8 weights: what rounding loses, their products, and how parts of a matrix fit together."""

import pytest
import torch
from torch.nn.functional import linear

from fastertransformer.config import EngineConfig, from_triton
from fastertransformer.errors import ModelLoadError
from fastertransformer.ops import pack_int8, skinny_int8_rows, unpack_int8
from fastertransformer.quant.int8 import Int8Weight

N, K = 24, 48
BORDER = skinny_int8_rows(torch.empty((N, K), dtype=torch.int8), torch.float32)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def matrix(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of very different sizes, one of zeros."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-3, 1, N)[torch.randperm(N, generator=generator)]
    weight = torch.randn((N, K), generator=generator) * sizes[:, None]
    weight[7] = 0
    return weight.to(dtype)


def quantised(weight: torch.Tensor) -> Int8Weight:
    return Int8Weight.from_float(weight, weight.abs().amax(1))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_weight_is_off_by_half_a_step_at_most(dtype):
    weight = matrix(dtype)
    held = quantised(weight)
    step = weight.float().abs().amax(1) / 127
    assert torch.equal(held.scale, step)
    exact = held.values.float() * held.scale[:, None]
    assert ((exact - weight.float()).abs() <= 0.5001 * step[:, None]).all()
    assert held.values.abs().amax(1).tolist() == [0 if row == 7 else 127 for row in range(N)]
    assert held.num_bytes == N * K + 4 * N


def test_ties_go_to_the_even_value():
    weight = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0]])
    assert quantised(weight).values.tolist() == [[127, 0, 2, 2, 0, -2, -2, -127]]


def test_matrices_of_many_rows_are_quantised_in_pieces():
    weight = torch.randn((2500, 16), generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([0, 1023, 1024, 2048, 2499])
    assert torch.equal(quantised(weight).values[rows], quantised(weight[rows]).values)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("rows", [1, BORDER, BORDER + 1, 65])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_are_those_of_the_rounded_weights(device, dtype, rows, has_bias):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn((rows, K), generator=generator).to(device, dtype)
    bias = torch.randn(N, generator=generator).to(device, dtype) if has_bias else None
    held = quantised(matrix(dtype).to(device))
    rounded = unpack_int8(held.values).double() * held.scale.double()[:, None]
    expected = linear(x.double(), rounded)
    bound = TOLERANCES[dtype] * float(expected.abs().max())
    logits = held.logits(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), expected, atol=bound, rtol=0)
    product = held.matmul(x, bias)
    assert product.dtype == dtype
    expected = expected if bias is None else expected + bias.double()
    torch.testing.assert_close(product.double(), expected, atol=bound, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_gpu_holds_the_same_values_packed(dtype):
    many = torch.randn((2500, 16), generator=torch.Generator().manual_seed(1)).to(dtype)
    for weight in (matrix(dtype), many):
        held = quantised(weight.cuda())
        scale = held.scale.cpu()
        torch.testing.assert_close(scale, quantised(weight).scale, rtol=1e-6, atol=0)  # divided otherwise
        divisor = torch.where(scale > 0, scale, 1.0)[:, None]
        values = (weight.float() / divisor).round().clamp(-127, 127).to(torch.int8)
        assert torch.equal(held.values.cpu(), pack_int8(values))
        assert torch.equal(held.expand().cpu(), Int8Weight(values, scale, dtype).expand())
        assert held.num_bytes == quantised(weight).num_bytes


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("columns", [K - 3, K - 4])
def test_rows_that_kernels_of_a_gpu_do_not_take(device, dtype, columns):
    """Of these, the ones that no four columns divide stay int8."""
    held = quantised(matrix(dtype)[:, :columns].contiguous().to(device))
    is_packed = device == "cuda" and columns % 4 == 0
    assert held.values.dtype == (torch.uint8 if is_packed else torch.int8)
    x = torch.randn((3, columns), generator=torch.Generator().manual_seed(3)).to(device, dtype)
    rounded = unpack_int8(held.values).double() * held.scale.double()[:, None]
    expected = linear(x.double(), rounded)
    bound = TOLERANCES[dtype] * float(expected.abs().max())
    torch.testing.assert_close(held.matmul(x, None).double(), expected, atol=bound, rtol=0)
    torch.testing.assert_close(held.expand().double(), rounded, atol=0, rtol=TOLERANCES[dtype])


@pytest.mark.gpu
def test_no_product_reads_expanded_weights_before_they_are_there():
    """All expand into the same memory, in which another one's values still lie."""
    x = torch.randn((100, 768), generator=torch.Generator().manual_seed(4)).cuda().bfloat16()
    weights = [torch.randn((2304, 768), generator=torch.Generator().manual_seed(i)) for i in range(4)]
    held = [quantised(weight.cuda().bfloat16()) for weight in weights]
    expected = [linear(x, weight.expand()) for weight in held]
    for result, product in zip((weight.matmul(x, None) for weight in held * 8), expected * 8, strict=True):
        torch.testing.assert_close(result, product, atol=4e-2 * float(product.abs().max()), rtol=0)


def test_parts_by_columns_are_parts_of_the_whole():
    """Otherwise ranks would add up products of differently rounded rows."""
    weight = matrix()
    row_max = weight.abs().amax(1)
    parts = [Int8Weight.from_float(part, row_max) for part in weight.split(K // 3, 1)]
    whole = quantised(weight)
    assert torch.equal(torch.cat([part.values for part in parts], 1), whole.values)
    assert all(torch.equal(part.scale, whole.scale) for part in parts)


def test_the_parameter():
    path = {"model_checkpoint_path": "x"}
    assert from_triton(path).int8_mode == EngineConfig(model_checkpoint_path="x").int8_mode == 0
    assert from_triton({**path, "int8_mode": "1"}).int8_mode == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2", r"int8_mode is 2; supported are 0 \(weights in data_type\), 1 \(weight-only int8\)"),
        ("-1", "int8_mode is -1; supported are"),
        ("yes", "int8_mode is 'yes'; expected an integer"),
    ],
)
def test_other_modes_are_refused(value, message):
    with pytest.raises(ModelLoadError, match=message):
        from_triton({"model_checkpoint_path": "x", "int8_mode": value})
