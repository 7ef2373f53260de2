# SPDX-License-Identifier: BSD-3-Clause
"""Rotary embedding against products of complex numbers, kernels against their bodies."""

import pytest
import torch
from kernels import DTYPES, LAYOUTS, ONE_ROUNDING, assert_close, assert_equals_body, run, sets_with
from paged_caches import cache_write
from torch import Tensor

NUM_POSITIONS = 50
# (tokens, heads, key-value heads, head_dim, rotary_dim): whole heads, parts, parts that split no pack.
SHAPES = [
    (1, 32, 32, 128, 128),
    (6, 8, 2, 64, 64),
    (3, 4, 4, 256, 64),
    (5, 3, 1, 96, 24),
    (4, 2, 2, 80, 20),
    (7, 5, 1, 40, 40),
    (2, 1, 3, 9, 6),
    (9, 1, 1, 2, 2),
    (35, 12, 4, 32, 16),
]


def angles(num_tokens: int, rotary_dim: int) -> tuple[Tensor, Tensor]:
    """Positions [T] int32, and the table [P, R] of cosines and sines."""
    generator = torch.Generator().manual_seed(rotary_dim)
    theta = torch.rand(NUM_POSITIONS, rotary_dim // 2, generator=generator) * 7
    positions = torch.randint(NUM_POSITIONS, (num_tokens,), generator=generator, dtype=torch.int32)
    return positions, torch.cat((theta.cos(), theta.sin()), 1)


def turned(heads: Tensor, positions: Tensor, table: Tensor, interleaved: bool) -> Tensor:
    """Every pair times cos + i sin, in double precision."""
    half = table.shape[1] // 2
    first = slice(0, 2 * half, 2) if interleaved else slice(0, half)
    second = slice(1, 2 * half, 2) if interleaved else slice(half, 2 * half)
    cos, sin = table[positions.long()].double().split(half, 1)
    wide = heads.double()
    product = torch.complex(wide[..., first], wide[..., second]) * torch.complex(cos, sin)[:, None]
    wide[..., first], wide[..., second] = product.real, product.imag
    return wide.to(heads.dtype)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("layout", ["fused", *LAYOUTS])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("rope"))
def test_kernels_equal_bodies(kernels, dtype, shape, layout, interleaved):
    *sizes, rotary_dim = shape
    write = cache_write(*sizes, dtype, layout)
    given = (write.q, write.k, *angles(sizes[0], rotary_dim), interleaved)
    assert_equals_body(kernels, "rope", *given, scale=ONE_ROUNDING)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("layout", ["fused", *LAYOUTS])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("rope_kv_write"))
def test_write_into_the_cache_equals_body(kernels, dtype, shape, layout, interleaved):
    *sizes, rotary_dim = shape
    write = cache_write(*sizes, dtype, layout)
    rows = (write.q, write.k, write.v, *angles(sizes[0], rotary_dim), interleaved)
    given = (*rows, write.k_cache, write.v_cache, write.slot_mapping)
    assert_equals_body(kernels, "rope_kv_write", *given, scale=ONE_ROUNDING, undefined=[1])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [64, 16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", ["body", *sets_with("rope")])
def test_rotation_is_a_complex_product(kernels, dtype, rotary_dim, interleaved):
    write = cache_write(6, 4, 2, 64, dtype, "fused")
    positions, table = angles(6, rotary_dim)
    _, after = run(kernels, "rope", write.q, write.k, positions, table, interleaved)
    for before, heads in zip((write.q, write.k), after, strict=False):
        assert_close(heads, turned(before, positions, table, interleaved), ONE_ROUNDING)
        assert torch.equal(heads[..., rotary_dim:], before[..., rotary_dim:])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [64, 16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", ["body", *sets_with("rope_kv_write")])
def test_cache_after_the_write(kernels, dtype, rotary_dim, interleaved):
    """Turned keys and untouched values in their slots, every other element of the caches as it was."""
    write = cache_write(20, 4, 2, 64, dtype, "fused")
    positions, table = angles(20, rotary_dim)
    rows = (write.q, write.k, write.v, positions, table, interleaved)
    _, after = run(kernels, "rope_kv_write", *rows, write.k_cache, write.v_cache, write.slot_mapping)
    assert_close(after[0], turned(write.q, positions, table, interleaved), ONE_ROUNDING)
    keys, k_cache, v_cache = turned(write.k, positions, table, interleaved), after[6], after[7]
    for token, block, offset in write.slots():
        assert_close(k_cache[block, :, offset], keys[token], ONE_ROUNDING)
        assert torch.equal(v_cache[block, :, offset], write.v[token])
        k_cache[block, :, offset] = write.k_cache[block, :, offset]
        v_cache[block, :, offset] = write.v_cache[block, :, offset]
    assert torch.equal(k_cache, write.k_cache)
    assert torch.equal(v_cache, write.v_cache)


@pytest.mark.parametrize("name", ["rope", "rope_kv_write"])
@pytest.mark.parametrize(("columns", "reason"), [(18, "is wider than a head"), (5, "has an odd number")])
@pytest.mark.parametrize("kernels", sets_with("rope_kv_write"))
def test_tables_that_fit_no_head_are_refused(kernels, name, columns, reason):
    write = cache_write(2, 2, 2, 16, torch.float32, "contiguous")
    given = {"rope": (write.q, write.k), "rope_kv_write": (write.q, write.k, write.v)}[name]
    caches = () if name == "rope" else (write.k_cache, write.v_cache, write.slot_mapping)
    with pytest.raises(ValueError, match=f"{name}: cos_sin {reason}"):
        run(kernels, name, *given, angles(2, 2)[0], torch.ones(NUM_POSITIONS, columns), False, *caches)
