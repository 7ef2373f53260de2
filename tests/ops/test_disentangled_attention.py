# SPDX-License-Identifier: BSD-3-Clause
"""Disentangled attention of packed sequences: the body against its formula, kernels against the body."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from kernels import DTYPES, assert_close, run, sets_with
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fastertransformer.ops.registry import OPS

LENGTHS = [1, 15, 16, 17, 63, 64, 65, 150]
PARTS = ["both", "c2p", "p2c", "none"]
SETS = sets_with("disentangled_attention")


def arguments(
    lengths: list[int],
    parts: str = "both",
    num_heads: int = 3,
    head_dim: int = 64,
    dtype: Any = torch.float32,
    num_rows: int = 40,
) -> list[Any]:
    """Of the op; q, k and v are views of one product, and buckets reach beyond the longest sequence."""
    generator = torch.Generator().manual_seed(sum(lengths))
    fused = torch.randn(sum(lengths), 3 * num_heads, head_dim, generator=generator).to(dtype)
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    scores = [4 * torch.randn(num_heads, sum(lengths), num_rows, generator=generator) for _ in range(2)]
    c2p = scores[0].to(dtype) if parts in ("both", "c2p") else None
    p2c = scores[1].to(dtype) if parts in ("both", "p2c") else None
    reach = max(lengths) + 1
    buckets = torch.randint(0, num_rows, (2 * reach - 1,), generator=generator, dtype=torch.int32)
    return [*fused.split(num_heads, 1), c2p, p2c, buckets, bounds, reach, (3 * head_dim) ** -0.5]


def attend(kernels: str, given: list[Any]) -> Tensor:
    return run(kernels, "disentangled_attention", *given)[0]


@pytest.mark.parametrize("parts", PARTS)
def test_body_is_the_formula(parts):
    given = arguments([5, 1, 33], parts)
    q, k, v, c2p, p2c, buckets, bounds, reach, scale = given
    result = attend("body", given)
    for start, end in pairwise(bounds.tolist()):
        alone = [x[start:end].transpose(0, 1) for x in (q, k, v)]
        mask = torch.zeros(3, end - start, end - start)
        for query in range(end - start):
            for key in range(end - start):
                bucket = buckets[reach - 1 + query - key]
                if c2p is not None:
                    mask[:, query, key] += scale * c2p[:, start + query, bucket]
                if p2c is not None:
                    mask[:, query, key] += scale * p2c[:, start + key, bucket]
        expected = scaled_dot_product_attention(*alone, attn_mask=mask, scale=scale).transpose(0, 1)
        torch.testing.assert_close(result[start:end], expected)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", PARTS)
def test_kernel_equals_body(kernels, dtype, parts):
    given = arguments(LENGTHS, parts, dtype=dtype)
    assert_close(attend(kernels, given), OPS["disentangled_attention"].body(*given))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [1, 8, 31, 32, 64, 80, 128, 256])
def test_head_sizes(kernels, head_dim, dtype):
    given = arguments([70, 33, 7], head_dim=head_dim, dtype=dtype)
    assert_close(attend(kernels, given), OPS["disentangled_attention"].body(*given))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequence_gets_the_same_alone(kernels, dtype):
    """Bit for bit, in whatever company."""
    given = arguments(LENGTHS, dtype=dtype)
    q, k, v, c2p, p2c, buckets, bounds, reach, scale = given
    together = attend(kernels, given)
    for start, end in pairwise(bounds.tolist()):
        alone = torch.tensor([0, end - start], dtype=torch.int32)
        rows = [x[start:end] for x in (q, k, v)]
        scores = [x[:, start:end] for x in (c2p, p2c)]
        result = attend(kernels, [*rows, *scores, buckets, alone, reach, scale])
        assert torch.equal(result, together[start:end])


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize(
    ("index", "name", "wrong"),
    [
        (1, "k", torch.zeros(21, 3, 32)),
        (2, "v", torch.zeros(21, 3, 64).half()),
        (3, "content_to_position", torch.zeros(3, 20, 40)),
        (4, "position_to_content", torch.zeros(2, 21, 40)),
        (5, "buckets", torch.zeros(40, dtype=torch.int32)),
        (6, "cu_seqlens", torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_wrong_arguments_are_named(kernels, index, name, wrong):
    given = arguments([1, 20])
    given[index] = wrong
    with pytest.raises(ValueError, match=f"^disentangled_attention: {name} "):
        attend(kernels, given)
