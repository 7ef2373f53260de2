# SPDX-License-Identifier: BSD-3-Clause
"""Norms against their formulas in double precision, kernels against their bodies."""

import pytest
import torch
from kernels import (
    DTYPES,
    KERNEL_SETS,
    LAYOUTS,
    ONE_ROUNDING,
    assert_equals_body,
    laid_out,
    run,
)
from torch import Tensor

NORMS = {"rms_norm": (), "add_rms_norm": ("residual",), "layer_norm": ("bias",)}
NORMS["add_layer_norm"] = ("residual", "bias")
EPS = 1e-5
# On a GPU a row is a warp's, or a block's with 1, 2 or 4 packs for each thread: where one ends.
SHAPES = [(1, 1), (3, 31), (2, 33), (7, 128), (9, 256), (3, 264), (2, 576), (2, 1000), (5, 2052)]
SHAPES += [(1, 4096), (2, 4104), (1, 8192), (2, 8200), (1, 16383), (2, 16384)]


def arguments(
    name: str, shape: tuple[int, int], dtype: torch.dtype, layout: str = "contiguous", keeps_sum: bool = True
):
    """x, [residual], weight, [bias], eps, [keeps_sum]"""
    generator = torch.Generator().manual_seed(shape[1])

    def random(*sizes: int) -> Tensor:
        return laid_out(torch.randn(sizes, generator=generator).to(dtype), layout)

    has_residual = "residual" in NORMS[name]
    rows = [random(*shape) for _ in range(1 + has_residual)]
    vectors = [random(shape[1]) for _ in range(1 + ("bias" in NORMS[name]))]
    return *rows, *vectors, EPS, *([keeps_sum] if has_residual else [])


def norm_in_doubles(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    values = x.double()
    if bias is not None:
        values = values - values.mean(1, keepdim=True)
    scaled = values / (values.pow(2).mean(1, keepdim=True) + EPS).sqrt() * weight.double()
    return scaled if bias is None else scaled + bias.double()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_kernels_equal_bodies(kernels, dtype, shape, layout):
    for name in NORMS:
        assert_equals_body(kernels, name, *arguments(name, shape, dtype, layout), scale=ONE_ROUNDING)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("kernels", ["body", *KERNEL_SETS])
def test_formula(kernels, name):
    """Around 1000 a variance taken as the mean square less the squared mean would be noise."""
    given = arguments(name, (3, 4096), torch.float32)
    shifted = (given[0] + 1000, *given[1:])
    result, after = run(kernels, name, *shifted)
    has_residual, has_bias = "residual" in NORMS[name], "bias" in NORMS[name]
    x = shifted[0] + shifted[1] if has_residual else shifted[0]
    weight, bias = shifted[1 + has_residual], shifted[2 + has_residual] if has_bias else None
    expected = norm_in_doubles(x, weight, bias)
    torch.testing.assert_close(result.double(), expected, atol=2e-3, rtol=0)
    assert torch.equal(after[has_residual], x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 31), (2, 1000), (2, 8200), (1, 16384)])
@pytest.mark.parametrize("name", ["add_rms_norm", "add_layer_norm"])
@pytest.mark.parametrize("kernels", ["body", *KERNEL_SETS])
def test_a_sum_that_is_not_kept_is_not_stored(kernels, name, shape, layout):
    kept, _ = run(kernels, name, *arguments(name, shape, torch.bfloat16, layout))
    given = arguments(name, shape, torch.bfloat16, layout, keeps_sum=False)
    result, after = run(kernels, name, *given)
    assert torch.equal(result, kept)
    assert torch.equal(after[1], given[1])


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_row_is_the_same_alone(kernels, name):
    given = arguments(name, (9, 1000), torch.bfloat16)
    together, _ = run(kernels, name, *given)
    for row in range(9):
        rows = [value[row : row + 1] if getattr(value, "ndim", 0) == 2 else value for value in given]
        assert torch.equal(run(kernels, name, *rows)[0], together[row : row + 1])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NORMS)
def test_row_is_the_same_among_many(name, dtype):
    """Of which warps take one each, where a block takes it alone."""
    rows = 1 + 16 * torch.cuda.get_device_properties(0).multi_processor_count
    for size in (264, 384, 512, 768, 1000, 1024):
        given = arguments(name, (rows, size), dtype)
        together, after = run("cuda", name, *given)
        some = [value[-9:].clone() if getattr(value, "ndim", 0) == 2 else value for value in given]
        alone, alone_after = run("cuda", name, *some)
        assert torch.equal(together[-9:], alone)
        if "residual" in NORMS[name]:
            assert torch.equal(after[1][-9:], alone_after[1])


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_no_rows(kernels):
    for name in NORMS:
        assert run(kernels, name, *arguments(name, (0, 64), torch.float16))[0].shape == (0, 64)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NORMS)
def test_rows_that_fit_no_block_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: x has rows of more than 16384 elements"):
        run("cuda", name, *arguments(name, (1, 16385), torch.float16))
