# SPDX-License-Identifier: BSD-3-Clause
"""Bidirectional attention of packed sequences: the body against transformers, kernels against the body."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from kernels import DTYPES, GPU, assert_close, laid_out, run, sets_with
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
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reach", [0, 9])
@pytest.mark.parametrize("head_dim", [1, 8, 24, 31, 32, 64, 80, 96, 128, 136, 256])
def test_head_sizes(kernels, head_dim, reach, dtype):
    given = arguments([70, 33, 7], head_dim=head_dim, reach=reach, dtype=dtype)
    assert_close(attend(kernels, given), OPS["encoder_attention"].body(*given))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("layout", ["padded", "misaligned"])
def test_strides(kernels, layout):
    """Rows that no copy of 16 bytes fits are taken too."""
    given = arguments([40, 9], dtype=torch.float16, reach=9)
    given[:3] = [laid_out(x, layout) for x in given[:3]]
    assert_close(attend(kernels, given), OPS["encoder_attention"].body(*given))


@pytest.mark.parametrize("kernels", SETS)
def test_more_sequences_than_threads(kernels):
    given = arguments([1 + number * number % 7 for number in range(300)], num_heads=2, dtype=torch.bfloat16)
    assert_close(attend(kernels, given), OPS["encoder_attention"].body(*given))


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [32, 64, 80, 96, 128])
def test_tiles_of_128_queries(kernels, head_dim, dtype):
    """Many long sequences, which get larger tiles, and the same bits as one of them alone."""
    lengths = [300, 129, 257, 512, 384] * 4
    given = arguments(lengths, num_heads=8, head_dim=head_dim, dtype=dtype)
    result = attend(kernels, given)
    assert_close(result, OPS["encoder_attention"].body(*given))
    q, k, v, *_, scale, bias = given
    rows, bounds = (x[: lengths[0]] for x in (q, k, v)), torch.tensor([0, lengths[0]], dtype=torch.int32)
    assert torch.equal(attend(kernels, [*rows, bounds, lengths[0], scale, bias]), result[: lengths[0]])


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reach", [0, 20])
@pytest.mark.parametrize("num_heads", [3, 40])
def test_a_sequence_gets_the_same_alone(kernels, dtype, reach, num_heads):
    """Bit for bit, in whatever company, also where one alone is too little for the same tiles."""
    given = arguments(LENGTHS, num_heads, dtype=dtype, reach=reach)
    q, k, v, bounds, _, scale, bias = given
    together = attend(kernels, given)
    for start, end in pairwise(bounds.tolist()):
        alone = torch.tensor([0, end - start], dtype=torch.int32)
        rows = (x[start:end] for x in (q, k, v))
        result = attend(kernels, [*rows, alone, end - start, scale, bias])
        assert torch.equal(result, together[start:end])


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_what_is_no_number_stays_in_its_sequence(kernels, head_dim, dtype):
    lengths = [70, 9, 130, 20, 200, 1]
    given = arguments(lengths, head_dim=head_dim, dtype=dtype)
    expected = attend(kernels, given)
    q, k, v, bounds, *_ = given
    for start, end, wrong in ((70, 79, torch.nan), (209, 229, torch.inf)):
        assert (start, end) in pairwise(bounds.tolist())
        for x in (q, k, v):
            x[start:end] = wrong
        expected[start:end] = 0
    result = attend(kernels, given)
    for start, end in ((70, 79), (209, 229)):
        result[start:end] = 0
    assert torch.equal(result, expected)


@pytest.mark.parametrize("kernels", SETS)
def test_sequences_without_tokens_and_tokens_of_no_sequence(kernels):
    """As in a batch that is filled up."""
    given = arguments([5, 20])
    expected = OPS["encoder_attention"].body(*given)
    q, k, v, _, *rest = given
    padded = [torch.cat((x, torch.full_like(x[:4], torch.nan))) for x in (q, k, v)]
    bounds = torch.tensor([0, 5, 5, 25, 25], dtype=torch.int32)
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
