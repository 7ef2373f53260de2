# SPDX-License-Identifier: BSD-3-Clause
"""Products of up to 128 rows with small weights, against their bodies."""

import pytest
import torch
from kernels import DTYPES, GPU, assert_equals_body, laid_out, needs_warpgroup_products, run
from skinny_operands import make, make_bias

from fastertransformer.ops import tile_rows
from fastertransformer.ops.activation import FUNCTIONS

ROWS = [1, 63, 65, 100, 128]
SHAPES = [
    (768, 768),
    (2304, 768),
    (3072, 768),
    (768, 3072),
    (384, 1536),
    (1040, 1024),
    (1000, 64),
    (8, 128),
    (600, 2048),
]
"""[N, K]: tiles of 16, 32, 48 and 64 rows, whole and in slices, the last one in part."""
TOO_LARGE = [(4096, 1024), (12288, 4096), (768, 8192), (768, 1088), (768, 96), (770, 768)]
"""More tiles than multiprocessors, more columns than tiles have, columns that do not fill boxes, odd rows."""


@pytest.fixture(autouse=True)
def _needs_warpgroups() -> None:
    needs_warpgroup_products()


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products(kernels, dtype, rows, shape):
    x, weight = make(kernels, "dense", dtype, rows, shape)
    assert_equals_body(kernels, "tile_linear", x, weight, None)
    assert_equals_body(kernels, "tile_linear", x, weight, make_bias(dtype, shape[0]))


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("shape", [(3072, 768), (768, 3072)])
def test_every_activation(kernels, dtype, kind, shape):
    x, weight = make(kernels, "dense", dtype, 90, shape)
    assert_equals_body(kernels, "tile_activated_linear", x, weight, make_bias(dtype, shape[0]), kind)


@pytest.mark.parametrize("kernels", [GPU])
def test_rows_that_lie_apart(kernels):
    x, weight = make(kernels, "dense", torch.bfloat16, 70, (96, 256))
    bias = laid_out(make_bias(torch.bfloat16, 96), "misaligned")
    assert_equals_body(kernels, "tile_linear", laid_out(x, "padded"), laid_out(weight, "padded"), bias)


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("shape", [(2304, 768), (768, 3072)])
def test_a_row_is_the_same_among_others(kernels, shape):
    """Other numbers of rows have tiles of other sizes."""
    x, weight = make(kernels, "dense", torch.bfloat16, 128, shape)
    whole, _ = run(kernels, "tile_linear", x, weight, None)
    part, _ = run(kernels, "tile_linear", x[70:71], weight, None)
    assert torch.equal(whole[70:71], part)


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("shape", TOO_LARGE)
def test_weights_without_tiles(kernels, shape):
    x, weight = make(kernels, "dense", torch.bfloat16, 70, shape)
    assert tile_rows(weight.cuda()) == 0
    with pytest.raises(ValueError, match="tile_linear: weight has"):
        run(kernels, "tile_linear", x, weight, None)


@pytest.mark.parametrize("kernels", [GPU])
def test_other_types_and_numbers_of_rows(kernels):
    x, weight = make(kernels, "dense", torch.float32, 129, (96, 256))
    assert tile_rows(weight) == tile_rows(weight.cuda()) == 0
    assert tile_rows(torch.zeros((1024, 1024), dtype=torch.half, device="cuda")) == 0
    assert tile_rows(weight.cuda().half()) == tile_rows(weight.cuda().bfloat16()) == 128
    with pytest.raises(ValueError, match="x is neither"):
        run(kernels, "tile_linear", x[:100], weight, None)
    x, weight = x.half(), weight.half()
    with pytest.raises(ValueError, match="x has more than 128 rows"):
        run(kernels, "tile_linear", x, weight, None)
    result, _ = run(kernels, "tile_linear", x[:0], weight, None)
    assert result.shape == (0, 96)
