# SPDX-License-Identifier: BSD-3-Clause
"""Bidirectional attention of packed sequences: the body against transformers, kernels against the body."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from kernels import DTYPES, assert_close, run, sets_with
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fastertransformer.ops.registry import OPS

LENGTHS = [1, 15, 16, 17, 63, 64, 65, 200]
SETS = sets_with("encoder_attention")


def arguments(
    lengths: list[int], num_heads: int = 3, head_dim: int = 64, dtype: Any = torch.float32, reach: int = 0
) -> list[Any]:
    """Of the op; q, k and v are views of one product."""
    generator = torch.Generator().manual_seed(sum(lengths))
    fused = torch.randn(sum(lengths), 3 * num_heads, head_dim, generator=generator).to(dtype)
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    bias = 2 * torch.randn(num_heads, 2 * reach + 1, generator=generator) if reach else None
    return [*fused.split(num_heads, 1), bounds, max(lengths), head_dim**-0.5, bias]


def attend(kernels: str, given: list[Any]) -> Tensor:
    return run(kernels, "encoder_attention", *given)[0]


@pytest.mark.parametrize("reach", [0, 1, 20, 400])
def test_body_is_torchs_attention_of_each_sequence(reach):
    given = arguments([5, 1, 33], reach=reach)
    q, k, v, bounds, _, _, bias = given
    result = attend("body", given)
    for start, end in pairwise(bounds):
        alone = [x[start:end].transpose(0, 1) for x in (q, k, v)]
        mask = None
        if bias is not None:
            distances = [
                [max(-reach, min(key - query, reach)) + reach for key in range(end - start)]
                for query in range(end - start)
            ]
            mask = bias[:, torch.tensor(distances)]
        expected = scaled_dot_product_attention(*alone, attn_mask=mask).transpose(0, 1)
        torch.testing.assert_close(result[start:end], expected)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reach", [0, 1, 20, 128, 400])
def test_kernel_equals_body(kernels, dtype, reach):
    given = arguments(LENGTHS, dtype=dtype, reach=reach)
    assert_close(attend(kernels, given), OPS["encoder_attention"].body(*given))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("head_dim", [1, 8, 24, 31, 80, 128, 256])
def test_head_sizes(kernels, head_dim):
    given = arguments([33, 7], head_dim=head_dim, reach=9)
    assert_close(attend(kernels, given), OPS["encoder_attention"].body(*given))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequence_gets_the_same_alone(kernels, dtype):
    """Bit for bit, in whatever company."""
    given = arguments(LENGTHS, dtype=dtype, reach=20)
    q, k, v, bounds, _, scale, bias = given
    together = attend(kernels, given)
    for start, end in pairwise(bounds.tolist()):
        alone = torch.tensor([0, end - start], dtype=torch.int32)
        rows = (x[start:end] for x in (q, k, v))
        result = attend(kernels, [*rows, alone, end - start, scale, bias])
        assert torch.equal(result, together[start:end])


@pytest.mark.parametrize("kernels", SETS)
def test_sequences_without_tokens_and_tokens_of_no_sequence(kernels):
    """As in a batch that is filled up."""
    given = arguments([5, 20])
    expected = OPS["encoder_attention"].body(*given)
    q, k, v, _, *rest = given
    padded = [torch.cat((x, torch.full_like(x[:4], torch.nan))) for x in (q, k, v)]
    bounds = torch.tensor([0, 5, 25, 25, 25], dtype=torch.int32)
    assert_close(attend(kernels, [*padded, bounds, *rest])[:25], expected)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize(
    ("index", "name", "wrong"),
    [
        (1, "k", torch.zeros(21, 3, 32)),
        (2, "v", torch.zeros(21, 3, 64).half()),
        (3, "cu_seqlens", torch.zeros(3, dtype=torch.int64)),
        (6, "relative_bias", torch.zeros(2, 3)),
        (6, "relative_bias", torch.zeros(3, 4)),
    ],
)
def test_wrong_arguments_are_named(kernels, index, name, wrong):
    given = arguments([1, 20])
    given[index] = wrong
    with pytest.raises(ValueError, match=f"^encoder_attention: {name} "):
        attend(kernels, given)
