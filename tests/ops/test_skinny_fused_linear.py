# SPDX-License-Identifier: BSD-3-Clause
"""Products of few rows that are activated, or two that are added, against their bodies and unfused ops."""

import pytest
import torch
from kernels import DTYPES, assert_close, assert_equals_body, run
from skinny_operands import GPU_SETS, KINDS, ROWS, check_supported, make, make_bias

ACTIVATIONS = ["gelu", "gelu_tanh", "relu", "silu"]
SHAPES = [(1, 16), (15, 48), (40, 128), (129, 256), (300, 1040), (96, 4160), (4096, 512), (4100, 2048)]
"""[N, K] of the weight; K is a multiple of 64 where Hopper has a kernel of its own."""
SUMS = [
    (1, 16, 16),
    (40, 128, 64),
    (129, 256, 1088),
    (300, 1040, 64),
    (4096, 512, 192),
    (12296, 64, 128),
    (4104, 2112, 64),
]
"""[N, K, L] of both weights."""


def activated(kind: str) -> str:
    return "skinny_activated_linear" if kind == "dense" else "skinny_activated_linear_int8"


def make_sum(dtype: torch.dtype, rows: int, n: int, k: int, second_k: int):
    x, weight = make("body", "dense", dtype, rows, (n, k))
    return x, weight, *make("body", "dense", dtype, rows, (n, second_k), seed=2)


@pytest.mark.parametrize("kernels", GPU_SETS)
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ROWS)
def test_activated_products(kernels, dtype, kind, rows):
    check_supported(kernels, dtype, kind)
    for index, shape in enumerate(SHAPES):
        operands, activation = make(kernels, kind, dtype, rows, shape), ACTIVATIONS[index % len(ACTIVATIONS)]
        assert_equals_body(kernels, activated(kind), *operands, None, activation, 0)
        bias, first = make_bias(dtype, shape[0]), index * shape[0] // len(SHAPES)
        assert_equals_body(kernels, activated(kind), *operands, bias, activation, first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activated_in_two_steps(kind, activation):
    linear = "skinny_linear" if kind == "dense" else "skinny_linear_int8"
    operands, bias = make("body", kind, torch.float32, 5, (136, 192)), make_bias(torch.float32, 136)
    product, _ = run("body", linear, *operands, bias)
    expected, _ = run("body", "activation", product, activation)
    for first in (0, 40, 136):
        result, _ = run("body", activated(kind), *operands, bias, activation, first)
        assert_close(result, torch.cat((product[:, :first], expected[:, first:]), 1))


@pytest.mark.parametrize("kernels", GPU_SETS)
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("rows", ROWS)
def test_sums(kernels, dtype, rows):
    for n, k, second_k in SUMS:
        operands = make_sum(dtype, rows, n, k, second_k)
        assert_equals_body(kernels, "skinny_linear_sum", *operands, None)
        assert_equals_body(kernels, "skinny_linear_sum", *operands, make_bias(dtype, n))


@pytest.mark.parametrize("kernels", GPU_SETS)
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_row_of_a_sum_does_not_depend_on_the_others(kernels, dtype):
    x, weight, second_x, second_weight = make_sum(dtype, max(ROWS), 300, 1088, 256)
    whole, _ = run(kernels, "skinny_linear_sum", x, weight, second_x, second_weight, None)
    for rows in ROWS:
        first, last = slice(rows), slice(-rows, None)
        for part in (first, last):
            some = x[part].contiguous(), weight, second_x[part].contiguous(), second_weight
            assert torch.equal(run(kernels, "skinny_linear_sum", *some, None)[0], whole[part])


@pytest.mark.parametrize("kernels", GPU_SETS)
def test_rows_of_a_sum_need_not_lie_side_by_side(kernels):
    x, weight, second_x, second_weight = make_sum(torch.bfloat16, 3, 70, 192, 256)
    assert_equals_body(
        kernels,
        "skinny_linear_sum",
        *(x[:, 64:], weight[:, 64:], second_x[:, 128:], second_weight[:, 128:]),
        None,
    )


@pytest.mark.parametrize("kernels", GPU_SETS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: torch.zeros((3, 64), dtype=torch.bfloat16)}, r"second_x has shape \[3, 64\]; expected \[2, "),
        ({2: torch.zeros((2, 64))}, "second_x is float32; expected bfloat16"),
        (
            {3: torch.zeros((31, 64), dtype=torch.bfloat16)},
            r"second_weight has shape \[31, 64\]; expected \[32",
        ),
        ({3: torch.zeros((32, 72), dtype=torch.bfloat16)}, r"second_weight has shape \[32, 72\]"),
    ],
)
def test_second_operands_that_do_not_fit_are_refused(kernels, change, message):
    operands = [*make_sum(torch.bfloat16, 2, 32, 64, 64), None]
    for index, tensor in change.items():
        operands[index] = tensor
    with pytest.raises(ValueError, match=message):
        run(kernels, "skinny_linear_sum", *operands)
