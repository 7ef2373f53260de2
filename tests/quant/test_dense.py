# SPDX-License-Identifier: BSD-3-Clause
"""Dense weights multiply alike below and above the number of rows where the product changes."""

import pytest
import torch

from fastertransformer.ops import skinny_rows
from fastertransformer.ops.activation import FUNCTIONS
from fastertransformer.quant.dense import DenseWeight

BORDER = skinny_rows(torch.empty(24, 40))


@pytest.mark.parametrize("rows", [1, BORDER, BORDER + 1])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_matmul(rows, has_bias, transposed):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((rows, 40), (24, 40), (24,)))
    stored = weight.T.contiguous().T if transposed else weight
    dense = DenseWeight(stored)
    expected = x.double() @ weight.double().T + (bias.double() if has_bias else 0)
    torch.testing.assert_close(
        dense.matmul(x, bias if has_bias else None), expected.float(), atol=1e-5, rtol=1e-5
    )
    assert dense.num_bytes == 24 * 40 * 4


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [64, 65, 128, 129])
@pytest.mark.parametrize("shape", [(768, 768), (768, 3072), (4096, 1024)])
@pytest.mark.parametrize("kind", [None, "gelu"])
def test_numbers_of_rows_that_gpus_multiply_otherwise(rows, shape, kind):
    generator = torch.Generator().manual_seed(3)
    sizes = (rows, shape[1]), shape, shape[:1]
    x, weight, bias = (torch.randn(size, generator=generator) for size in sizes)
    weight *= shape[1] ** -0.5
    x, weight, bias = (tensor.bfloat16() for tensor in (x, weight, bias))
    dense, given = DenseWeight(weight.cuda()), (x.cuda(), bias.cuda())
    result = dense.matmul(*given) if kind is None else dense.activated_matmul(*given, kind)
    expected = x.double() @ weight.double().T + bias.double()
    expected = expected if kind is None else FUNCTIONS[kind](expected)
    bound = 4 * torch.finfo(torch.bfloat16).eps * expected.abs().max().item()
    torch.testing.assert_close(result.cpu().double(), expected, atol=bound, rtol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 65, 300])
def test_logits(device, dtype, rows):
    """On a GPU no sum is rounded to the type of the weights."""
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(n, 64, generator=generator).to(device, dtype) for n in (rows, 40))
    logits = DenseWeight(weight).logits(x)
    assert logits.dtype == torch.float32
    tolerance = 1e-5 if device == "cuda" else 4 * torch.finfo(dtype).eps
    expected = (x.double() @ weight.double().T).float()
    torch.testing.assert_close(logits, expected, atol=tolerance * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("rows", [2047, 2048])
@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_activated_with_many_rows(device, rows, kind, has_bias):
    generator = torch.Generator().manual_seed(2)
    shapes = (rows, 512), (40, 512), (40,)
    x, weight, bias = (torch.randn(shape, generator=generator).to(device).bfloat16() for shape in shapes)
    result = DenseWeight(weight).activated_matmul(x, bias if has_bias else None, kind)
    product = x.double() @ weight.double().T + (bias.double() if has_bias else 0)
    expected = FUNCTIONS[kind](product)
    bound = 4 * torch.finfo(torch.bfloat16).eps * expected.abs().max().item()
    torch.testing.assert_close(result.double(), expected, atol=bound, rtol=0)
