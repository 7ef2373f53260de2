# SPDX-License-Identifier: BSD-3-Clause
"""Products of few rows, dense and int8, against their bodies; a row is the same whatever is beside it."""

import pytest
import torch
from kernels import DTYPES, KERNEL_SETS, assert_close, assert_equals_body, held, run
from skinny_operands import (
    GPU_SETS,
    KINDS,
    ROWS,
    SETS,
    check_supported,
    check_worth_its_time,
    make,
    make_bias,
)

CPU_SHAPES = [(1, 1), (5, 7), (64, 64), (37, 129), (130, 1000)]
"""[N, K] of the weight: ends of tiles and vectors."""
GPU_SHAPES = [(1, 16), (15, 48), (17, 112), (40, 144), (129, 256), (300, 1040), (96, 4112), (70, 1152)]
"""K is a multiple of 16, and of 128 where Hopper has an int8 kernel of its own.

Column groups that are empty, of unequal length, or cut off at the end."""
WIDE = [(4096, 512), (12288, 256), (22016, 128)]
"""One row tile for some blocks, several blocks of row tiles for each."""
LONG = [(4098, 2112), (8456, 2048), (16390, 2048), (22016, 2048)]
"""Of blocks with many rows of many columns, whose tiles have all numbers of rows."""


def shapes_of(kernels: str) -> list[tuple[int, int]]:
    return GPU_SHAPES if kernels.startswith("cuda") else CPU_SHAPES


def names(kind: str) -> tuple[str, str]:
    return (
        ("skinny_linear", "skinny_logits")
        if kind == "dense"
        else ("skinny_linear_int8", "skinny_logits_int8")
    )


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ROWS)
def test_products(kernels, dtype, kind, rows):
    check_supported(kernels, dtype, kind)
    linear, logits = names(kind)
    for shape in shapes_of(kernels):
        operands = make(kernels, kind, dtype, rows, shape)
        assert_equals_body(kernels, linear, *operands, None)
        assert_equals_body(kernels, linear, *operands, make_bias(dtype, shape[0]))
        assert_equals_body(kernels, logits, *operands)


@pytest.mark.parametrize("kernels", GPU_SETS)
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 12, 64])
@pytest.mark.parametrize("shape", WIDE + LONG)
def test_weights_that_occupy_the_whole_gpu(kernels, dtype, kind, rows, shape):
    check_supported(kernels, dtype, kind)
    linear, logits = names(kind)
    operands = make(kernels, kind, dtype, rows, shape)
    assert_equals_body(kernels, linear, *operands, make_bias(dtype, shape[0]))
    assert_equals_body(kernels, logits, *operands)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(37, 128), (300, 1040), (2200, 4112), (4224, 2112), (12296, 2048)])
def test_a_row_does_not_depend_on_the_others(kernels, dtype, kind, shape):
    check_supported(kernels, dtype, kind)
    check_worth_its_time(kernels, shape)
    x, *weights = make(kernels, kind, dtype, max(ROWS), shape)
    bias = make_bias(dtype, shape[0])
    linear, logits = names(kind)
    for name, more in ((linear, (bias,)), (logits, ())):
        whole, _ = run(kernels, name, x, *weights, *more)
        for rows in ROWS:
            first, _ = run(kernels, name, x[:rows].contiguous(), *weights, *more)
            assert torch.equal(first, whole[:rows])
            last, _ = run(kernels, name, x[-rows:].contiguous(), *weights, *more)
            assert torch.equal(last, whole[-rows:])


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [3, 40])
def test_rows_need_not_lie_side_by_side(kernels, dtype, kind, rows):
    check_supported(kernels, dtype, kind)
    x, weight, *scale = make(kernels, kind, dtype, rows, (70, 192))
    x, weight = x[:, 32:176], weight[:, 48:192]
    assert_equals_body(kernels, names(kind)[0], x, weight, *scale, None)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("kind", KINDS)
def test_largest_and_smallest_int8_and_infinities(kernels, kind):
    """Values that are not finite stay in the rows that they belong to."""
    check_supported(kernels, torch.bfloat16, kind)
    x, weight, *scale = make(kernels, kind, torch.bfloat16, 9, (33, 144))
    if kind == "int8":
        smallest = -127 if kernels.startswith("cuda") else -128
        extremes = torch.tensor([[smallest], [127]], dtype=torch.int8).expand(2, 144)
        weight[:2] = held(kernels, extremes)
    x[2, 5], x[8, 143] = torch.inf, torch.nan
    name = names(kind)[0]
    result, _ = run(kernels, name, x, weight, *scale, None)
    assert not result[[2, 8]].isfinite().any()
    others = [0, 1, 3, 4, 5, 6, 7]
    assert_equals_body(kernels, name, x[others], weight, *scale, None)
    assert torch.equal(result[others], run(kernels, name, x[others], weight, *scale, None)[0])


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [
        (torch.bfloat16, 14),
        (torch.bfloat16, 30),
        (torch.bfloat16, -40),
        (torch.float16, 10),
        (torch.float16, -10),
    ],
)
@pytest.mark.parametrize("rows", [1, 12, 33])
def test_int8_with_large_and_small_inputs(kernels, dtype, exponent, rows):
    """Results over the size of x are no further from the body's than with x of size 1."""
    for shape in shapes_of(kernels):
        x, *weights = make(kernels, "int8", dtype, rows, shape)
        size = 2.0**exponent
        for name, more in (("skinny_linear_int8", (None,)), ("skinny_logits_int8", ())):
            result, _ = run(kernels, name, x * size, *weights, *more)
            expected, _ = run("body", name, x * size, *weights, *more)
            assert_close(result / size, expected / size)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", ["x", "weight", "scale"])
def test_int8_with_zeros(kernels, dtype, zeros):
    check_supported(kernels, dtype, "int8")
    for shape in shapes_of(kernels):
        operands = dict(zip(("x", "weight", "scale"), make(kernels, "int8", dtype, 9, shape), strict=True))
        operands[zeros] = torch.zeros_like(operands[zeros])
        bias = make_bias(dtype, shape[0])
        result, _ = run(kernels, "skinny_linear_int8", *operands.values(), bias)
        assert torch.equal(result, bias.expand(9, -1))
        assert not run(kernels, "skinny_logits_int8", *operands.values())[0].any()


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_row_gives_no_row(kernels, kind):
    check_supported(kernels, torch.bfloat16, kind)
    x, *weights = make(kernels, kind, torch.bfloat16, 1, (32, 64))
    result, _ = run(kernels, names(kind)[0], x[:0], *weights, None)
    assert result.shape == (0, 32)


@pytest.mark.parametrize("kernels", GPU_SETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "shape", "message"),
    [
        (65, (32, 64), "x has more than 64 rows"),
        (1, (32, 68), "multiples? of 16 bytes"),
    ],
)
def test_what_the_gpu_kernel_cannot_do_is_refused(kernels, kind, rows, shape, message):
    check_supported(kernels, torch.bfloat16, kind)
    with pytest.raises(ValueError, match=message):
        run(kernels, names(kind)[0], *make(kernels, kind, torch.bfloat16, rows, shape), None)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: torch.zeros((32, 64), dtype=torch.bfloat16)}, "weight is bfloat16; expected u?int8"),
        ({2: torch.zeros(32, dtype=torch.bfloat16)}, "scale is bfloat16; expected float32"),
        ({2: torch.zeros(31)}, r"scale has shape \[31\]; expected \[32\]"),
        ({3: torch.zeros(32)}, "bias is float32; expected bfloat16"),
    ],
)
def test_wrong_int8_operands_are_refused(kernels, change, message):
    operands = [*make(kernels, "int8", torch.bfloat16, 2, (32, 64)), None]
    for index, tensor in change.items():
        operands[index] = tensor
    with pytest.raises(ValueError, match=message):
        run(kernels, "skinny_linear_int8", *operands)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_int8_as_the_other_device_holds_it_is_refused(kernels):
    x, weight, scale = make(kernels, "int8", torch.bfloat16, 2, (32, 64))
    other = torch.int8 if weight.dtype == torch.uint8 else torch.uint8
    wanted = str(weight.dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"; expected {wanted}$"):
        run(kernels, "skinny_linear_int8", x, weight.view(other), scale, None)
