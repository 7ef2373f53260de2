# SPDX-License-Identifier: BSD-3-Clause
"""Sums in place against their body."""

import pytest
import torch
from kernels import DTYPES, LAYOUTS, ONE_ROUNDING, assert_equals_body, laid_out, sets_with


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 8), (33, 31), (2, 264), (1, 2056), (5, 4096)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("add"))
def test_the_kernel_equals_the_body(kernels, dtype, shape, layout):
    generator = torch.Generator().manual_seed(shape[1])
    x, y = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    assert_equals_body(kernels, "add", laid_out(x, layout), y, scale=ONE_ROUNDING)
    assert_equals_body(kernels, "add", x, laid_out(y, layout), scale=ONE_ROUNDING)


@pytest.mark.parametrize("kernels", sets_with("add"))
def test_no_rows(kernels):
    assert_equals_body(kernels, "add", torch.empty(0, 8), torch.empty(0, 8))
