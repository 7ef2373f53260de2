# SPDX-License-Identifier: BSD-3-Clause
"""Norm kernels against their bodies, at sizes where vectors and loops end."""

import pytest
import torch
from kernels import DTYPES, KERNEL_SETS, assert_equals_body

SHAPES = [(1, 8), (3, 64), (2, 576), (5, 1000), (1, 4096), (2, 8192)]


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms(kernels, dtype, shape):
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    weight, bias = (torch.randn(shape[1], generator=generator).to(dtype) for _ in range(2))
    assert_equals_body(kernels, "rms_norm", x, weight, 1e-5)
    assert_equals_body(kernels, "add_rms_norm", x, residual, weight, 1e-5)
    assert_equals_body(kernels, "layer_norm", x, weight, bias, 1e-5)
    assert_equals_body(kernels, "add_layer_norm", x, residual, weight, bias, 1e-5)
