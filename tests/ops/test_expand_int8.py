# SPDX-License-Identifier: BSD-3-Clause
"""Weights out of int8 and factors of their rows, bit by bit as the body makes them."""

import pytest
import torch
from kernels import DTYPES, LAYOUTS, assert_equals_body, laid_out, sets_with


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 8), (33, 31), (2, 264), (5, 4096), (300, 2056)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("expand_int8"))
def test_the_kernel_equals_the_body(kernels, dtype, shape, layout):
    generator = torch.Generator().manual_seed(shape[1])
    weight = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
    scale = torch.rand(shape[0], generator=generator)
    out = torch.zeros(shape, dtype=dtype)
    assert_equals_body(kernels, "expand_int8", laid_out(out, layout), weight, scale, scale=0)
    assert_equals_body(kernels, "expand_int8", out, laid_out(weight, layout), scale, scale=0)


@pytest.mark.parametrize("kernels", sets_with("expand_int8"))
def test_no_rows(kernels):
    out, weight = torch.empty(0, 8), torch.empty(0, 8, dtype=torch.int8)
    assert_equals_body(kernels, "expand_int8", out, weight, torch.empty(0))
