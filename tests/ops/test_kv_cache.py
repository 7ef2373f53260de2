# SPDX-License-Identifier: BSD-3-Clause
"""Keys and values arrive bit by bit in their slots, and nowhere else."""

import pytest
import torch
from kernels import DTYPES, LAYOUTS, assert_equals_body, run, sets_with
from paged_caches import cache_write

# (tokens, key-value heads, head_dim)
SHAPES = [(1, 32, 128), (4, 1, 1), (5, 3, 33), (7, 2, 80), (3, 5, 96), (20, 8, 64), (35, 2, 256)]


@pytest.mark.parametrize("layout", ["fused", *LAYOUTS])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", sets_with("kv_write"))
def test_kernels_equal_bodies(kernels, dtype, shape, layout):
    num_tokens, num_kv_heads, head_dim = shape
    write = cache_write(num_tokens, 4, num_kv_heads, head_dim, dtype, layout)
    given = (write.k, write.v, write.k_cache, write.v_cache, write.slot_mapping)
    assert_equals_body(kernels, "kv_write", *given, scale=0)


@pytest.mark.parametrize("kernels", ["body", *sets_with("kv_write")])
def test_definition(kernels):
    write = cache_write(20, 4, 3, 16, torch.float16, "fused")
    expected_k, expected_v = write.k_cache.clone(), write.v_cache.clone()
    for token, block, offset in write.slots():
        for head in range(3):
            expected_k[block, head, offset] = write.k[token, head]
            expected_v[block, head, offset] = write.v[token, head]
    given = (write.k, write.v, write.k_cache, write.v_cache, write.slot_mapping)
    _, after = run(kernels, "kv_write", *given)
    assert torch.equal(after[2], expected_k)
    assert torch.equal(after[3], expected_v)


@pytest.mark.parametrize("kernels", ["body", *sets_with("kv_write")])
def test_rows_that_fill_the_batch_write_nothing(kernels):
    write = cache_write(6, 2, 2, 8, torch.float32, "contiguous")
    nowhere = torch.full_like(write.slot_mapping, -1)
    _, after = run(kernels, "kv_write", write.k, write.v, write.k_cache, write.v_cache, nowhere)
    assert torch.equal(after[2], write.k_cache)
    assert torch.equal(after[3], write.v_cache)


@pytest.mark.parametrize("kernels", sets_with("kv_write"))
def test_no_rows(kernels):
    write = cache_write(0, 2, 2, 8, torch.float32, "contiguous")
    run(kernels, "kv_write", write.k, write.v, write.k_cache, write.v_cache, write.slot_mapping)
