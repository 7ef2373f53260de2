# SPDX-License-Identifier: BSD-3-Clause
"""Activations against their formulas in double precision, kernels against their bodies."""

import math

import pytest
import torch
from kernels import DTYPES, KERNEL_SETS, LAYOUTS, ONE_ROUNDING, assert_equals_body, laid_out, run

FORMULAS = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)) if x > -700 else 0.0,
}
SHAPES = [(1, 1), (3, 7), (2, 8), (5, 31), (2, 33), (3, 264), (2, 2048), (1, 2056), (2, 11008)]


def rows(shape: tuple[int, int], dtype: torch.dtype, layout: str):
    generator = torch.Generator().manual_seed(shape[1])
    return laid_out((torch.randn(shape, generator=generator) * 3).to(dtype), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_kernels_equal_bodies(kernels, dtype, shape, layout):
    count, size = shape
    for kind in FORMULAS:
        assert_equals_body(kernels, "activation", rows(shape, dtype, layout), kind, scale=ONE_ROUNDING)
        gated = rows((count, 2 * size), dtype, layout)
        assert_equals_body(kernels, "gated_activation", gated, kind, scale=ONE_ROUNDING)


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("kernels", ["body", *KERNEL_SETS])
def test_formula(kernels, kind):
    """From values that nothing changes, over those where functions bend, to those that overflow an exponent."""
    x = torch.cat((torch.linspace(-12, 12, 4801), torch.tensor([-1e4, -100.0, -0.0, 1e-6, 100.0, 1e4])))
    expected = torch.tensor([FORMULAS[kind](value) for value in x.tolist()])
    result, _ = run(kernels, "activation", x[None], kind)
    torch.testing.assert_close(result[0], expected, atol=2e-6, rtol=2e-6)
    result, _ = run(kernels, "gated_activation", torch.cat((x, 0.5 * x))[None], kind)
    torch.testing.assert_close(result[0], expected * 0.5 * x, atol=2e-5, rtol=2e-6)


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("kernels", ["body", *KERNEL_SETS])
def test_what_is_no_number_stays_none(kernels, kind):
    x = torch.tensor([[1.0, math.nan, -1.0, 2.0]])
    assert run(kernels, "activation", x, kind)[0].isnan().tolist() == [[False, True, False, False]]
    assert run(kernels, "gated_activation", x, kind)[0].isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("name", ["activation", "gated_activation"])
@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_unknown_kind_is_refused(kernels, name):
    with pytest.raises(ValueError, match=f"{name}: kind is unknown; kinds are gelu, gelu_tanh, relu, silu"):
        run(kernels, name, torch.ones(1, 4), "swish")


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_no_rows(kernels):
    assert run(kernels, "activation", torch.empty(0, 8), "silu")[0].shape == (0, 8)
    assert run(kernels, "gated_activation", torch.empty(0, 8), "silu")[0].shape == (0, 4)
