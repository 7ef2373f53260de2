# SPDX-License-Identifier: BSD-3-Clause
"""Weights out of int8 and factors of their rows, bit by bit as the body makes them; how int8 is packed."""

import pytest
import torch
from kernels import DTYPES, LAYOUTS, assert_equals_body, held, laid_out, run, sets_with

from fastertransformer.ops import pack_int8, unpack_int8

ALL = torch.arange(-127, 128, dtype=torch.int8)


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(shape[1])
    return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 4), (3, 12), (2, 8), (33, 36), (2, 264), (5, 4096), (300, 2056)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("expand_int8"))
def test_the_kernel_equals_the_body(kernels, dtype, shape, layout):
    weight = held(kernels, random(*shape))
    scale = torch.rand(shape[0], generator=torch.Generator().manual_seed(0))
    out = torch.zeros(shape, dtype=dtype)
    assert_equals_body(kernels, "expand_int8", laid_out(out, layout), weight, scale, scale=0)
    assert_equals_body(kernels, "expand_int8", out, laid_out(weight, layout), scale, scale=0)


@pytest.mark.parametrize("kernels", sets_with("expand_int8"))
def test_no_rows(kernels):
    out, weight = torch.empty(0, 8), held(kernels, torch.empty(0, 8, dtype=torch.int8))
    assert_equals_body(kernels, "expand_int8", out, weight, torch.empty(0))


@pytest.mark.parametrize("kernels", sets_with("expand_int8"))
@pytest.mark.parametrize(
    ("columns", "dtype", "message"),
    [(8, torch.int8, "weight is int8; expected uint8"), (6, torch.uint8, "length is no multiple of 4")],
)
def test_what_is_not_packed_is_refused(kernels, columns, dtype, message):
    with pytest.raises(ValueError, match=message):
        run(
            kernels,
            "expand_int8",
            torch.empty(2, columns),
            torch.zeros(2, columns, dtype=dtype),
            torch.ones(2),
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_body_takes_int8_of_either_kind(dtype):
    weight, scale = random(5, 12), torch.rand(5, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(5, 12, dtype=dtype)
    _, (expected, *_) = run("body", "expand_int8", out, weight, scale)
    _, (result, *_) = run("body", "expand_int8", out, pack_int8(weight), scale)
    assert torch.equal(result, expected)


def test_every_value_is_packed_and_unpacked_in_every_place():
    values = torch.stack([ALL.roll(place).repeat(4) for place in range(4)])
    packed = pack_int8(values)
    assert packed.dtype == torch.uint8
    assert packed.shape == values.shape
    assert torch.equal(unpack_int8(packed), values)
    assert torch.equal(unpack_int8(values), values)


@pytest.mark.parametrize(("dtype", "unit"), [(torch.bfloat16, 2.0**-133), (torch.float16, 2.0**-24)])
def test_a_mask_leaves_numbers_of_16_bits(dtype, unit):
    """Weights 0 and 2 of four, and 1 and 3 once the bytes are rotated by one, times a power of two."""
    values = random(64, 32)
    words = pack_int8(values).view(torch.int32).long() & 0xFFFFFFFF
    rotated = words >> 8 | (words & 0xFF) << 24
    for word, first in ((words, 0), (rotated, 1)):
        for place in (0, 2):
            numbers = (word >> 8 * place & 0x807F).to(torch.int16).view(dtype)
            assert torch.equal(numbers.double() / unit, values[:, first + place :: 4].double())
