# SPDX-License-Identifier: BSD-3-Clause
"""Which sizes of steps have graphs."""

import pytest

from fastertransformer.runtime.buckets import Bucket, decode_buckets, first_that_holds, prompt_buckets

LLAMA_2_7B = 413 << 20
TINY = 1 << 16
SKINNY_ROWS = 64


@pytest.mark.parametrize("max_num_seqs", [1, 3, 8, 64, 100, 256])
def test_every_decode_step_has_one_with_little_left_empty(max_num_seqs):
    buckets = decode_buckets(max_num_seqs)
    assert buckets == sorted(set(buckets))
    for count in range(1, max_num_seqs + 1):
        bucket = first_that_holds(buckets, count, count)
        assert bucket is not None
        assert bucket.tokens == bucket.sequences < max(2 * count, count + 32)
        assert bucket.is_decode
    assert first_that_holds(buckets, max_num_seqs + 1, 1) is None


@pytest.mark.parametrize("max_num_seqs", [1, 8, 50, 256])
@pytest.mark.parametrize("max_num_tokens", [2, 11, 64, 100, 8192])
def test_every_small_step_has_one_and_keeps_its_kernels(max_num_tokens, max_num_seqs):
    buckets = prompt_buckets(TINY, max_num_tokens, max_num_seqs)
    assert buckets == sorted(set(buckets))
    assert buckets[-1].tokens == min(max_num_tokens, 2048)
    for tokens in range(2, buckets[-1].tokens + 1):
        for sequences in {1, min(8, tokens - 1), min(64, tokens - 1), tokens - 1}:
            if sequences > max_num_seqs:
                continue
            bucket = first_that_holds(buckets, tokens, sequences)
            assert bucket is not None
            assert not bucket.is_decode
            assert bucket.sequences <= min(max_num_seqs, bucket.tokens)
            assert bucket.tokens <= max(16, 2 * tokens)
            assert tokens > SKINNY_ROWS or bucket.tokens <= SKINNY_ROWS
            assert sequences > SKINNY_ROWS or bucket.sequences <= SKINNY_ROWS


def test_larger_models_have_fewer():
    assert max(bucket.tokens for bucket in prompt_buckets(LLAMA_2_7B, 8192, 256)) == 512
    assert len(prompt_buckets(LLAMA_2_7B, 8192, 256)) == 21
    assert len(prompt_buckets(TINY, 8192, 256)) == 27
    assert prompt_buckets(1 << 40, 8192, 256) == []


def test_a_step_of_one_token_is_a_decode_step_or_none():
    assert prompt_buckets(TINY, 1, 8) == []
    assert prompt_buckets(TINY, 2, 8) == [Bucket(2, 2, 2)]
