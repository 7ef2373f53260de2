# SPDX-License-Identifier: BSD-3-Clause
"""Products of few rows whose first half gates the second, against their bodies and the unfused ops."""

import pytest
import torch
from kernels import DTYPES, GPU, assert_close, assert_equals_body, run
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

ACTIVATIONS = ["gelu", "gelu_tanh", "relu", "silu"]
CPU_SHAPES = [(2, 1), (6, 7), (64, 64), (38, 129), (130, 1000)]
"""[N, K] of the weight: halves that end inside of tiles and vectors."""
GPU_SHAPES = [(2, 16), (2, 64), (6, 128), (14, 48), (18, 192), (34, 112), (130, 256), (262, 1040), (96, 4160)]
"""K is a multiple of 16, and of 64 where Hopper has a kernel of its own."""
WIDE = [(2200, 320), (4096, 512), (5284, 64), (6338, 192), (22016, 128), (4104, 2112), (10580, 2048)]
"""Of blocks that have no, one and several whole tiles, with every number of rows behind them; the last two
have many columns."""


def name_of(kind: str) -> str:
    return "skinny_gated_linear" if kind == "dense" else "skinny_gated_linear_int8"


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ROWS)
def test_products(kernels, dtype, kind, rows):
    check_supported(kernels, dtype, kind)
    for index, shape in enumerate(GPU_SHAPES if kernels.startswith("cuda") else CPU_SHAPES):
        operands = make(kernels, kind, dtype, rows, shape)
        activation = ACTIVATIONS[index % len(ACTIVATIONS)]
        assert_equals_body(kernels, name_of(kind), *operands, None, activation)
        assert_equals_body(kernels, name_of(kind), *operands, make_bias(dtype, shape[0]), activation)


@pytest.mark.parametrize("kernels", GPU_SETS)
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 12, 24, 64])
@pytest.mark.parametrize("shape", WIDE)
def test_weights_that_occupy_the_whole_gpu(kernels, dtype, kind, rows, shape):
    check_supported(kernels, dtype, kind)
    operands = make(kernels, kind, dtype, rows, shape)
    assert_equals_body(kernels, name_of(kind), *operands, make_bias(dtype, shape[0]), "silu")


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(kernels, kind, activation):
    check_supported(kernels, torch.float16, kind)
    operands = make(kernels, kind, torch.float16, 5, (136, 192))
    assert_equals_body(kernels, name_of(kind), *operands, None, activation)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_same_in_two_steps(kind, activation):
    linear = "skinny_linear" if kind == "dense" else "skinny_linear_int8"
    operands = make("body", kind, torch.float32, 5, (136, 192))
    bias = make_bias(torch.float32, 136)
    product, _ = run("body", linear, *operands, bias)
    expected, _ = run("body", "gated_activation", product, activation)
    result, _ = run("body", name_of(kind), *operands, bias, activation)
    assert_close(result, expected)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(38, 128), (300, 1040), (2200, 4160)])
def test_a_row_does_not_depend_on_the_others(kernels, dtype, kind, shape):
    check_supported(kernels, dtype, kind)
    check_worth_its_time(kernels, shape)
    x, *weights = make(kernels, kind, dtype, max(ROWS), shape)
    whole, _ = run(kernels, name_of(kind), x, *weights, None, "silu")
    for rows in ROWS:
        first, _ = run(kernels, name_of(kind), x[:rows].contiguous(), *weights, None, "silu")
        assert torch.equal(first, whole[:rows])
        last, _ = run(kernels, name_of(kind), x[-rows:].contiguous(), *weights, None, "silu")
        assert torch.equal(last, whole[-rows:])


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [slice(48, 192), slice(64, 192)])
def test_rows_need_not_lie_side_by_side(kernels, dtype, kind, columns):
    check_supported(kernels, dtype, kind)
    x, weight, *scale = make(kernels, kind, dtype, 3, (70, 192))
    assert_equals_body(kernels, name_of(kind), x[:, columns], weight[:, columns], *scale, None, "silu")


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_row_gives_no_row(kernels, kind):
    check_supported(kernels, torch.bfloat16, kind)
    x, *weights = make(kernels, kind, torch.bfloat16, 1, (32, 64))
    assert run(kernels, name_of(kind), x[:0], *weights, None, "silu")[0].shape == (0, 16)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "activation", "message"),
    [(33, "silu", "weight has an odd number of rows"), (32, "swish", "kind is unknown; kinds are gelu")],
)
def test_what_has_no_halves_or_no_name_is_refused(kernels, kind, size, activation, message):
    check_supported(kernels, torch.bfloat16, kind)
    with pytest.raises(ValueError, match=message):
        run(kernels, name_of(kind), *make(kernels, kind, torch.bfloat16, 1, (size, 64)), None, activation)


@pytest.mark.parametrize("kernels", [GPU])
def test_the_second_half_begins_where_the_first_ends(kernels):
    """Rows of the gate that no tile covers whole are not taken from what it gates."""
    x, weight = make(kernels, "dense", torch.bfloat16, 2, (2 * 37, 128))
    weight[:37], weight[37:] = weight[:37].abs(), -weight[37:].abs()
    assert_equals_body(kernels, "skinny_gated_linear", x.abs(), weight, None, "relu")
