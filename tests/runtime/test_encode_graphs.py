# SPDX-License-Identifier: BSD-3-Clause
"""Steps of encoders as they are laid out for graphs: which sizes there are, and what fills them up."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastertransformer.engine.encode_batch import EncodeBatch
from fastertransformer.runtime.encode_graphs import batch_buckets, token_buckets
from fastertransformer.runtime.encode_step import padded, place

CPU = torch.device("cpu")


def batch_of(*lengths: int, has_types: bool = False) -> EncodeBatch:
    tokens = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    return EncodeBatch(
        lengths=np.array(lengths, np.int32),
        outputs=((),) * len(lengths),
        tokens=tokens,
        token_types=tokens % 2 if has_types else None,
        hidden_states=None,
    )


@pytest.mark.parametrize("largest", [1, 16, 17, 130, 512, 2000, 2048])
def test_buckets_hold_every_step_and_leave_little_empty(largest):
    for buckets in (token_buckets(largest), batch_buckets(largest)):
        assert buckets == sorted(set(buckets))
        assert buckets[-1] == largest
    tokens = token_buckets(largest)
    assert all(above - below <= max(16, below // 4) for below, above in itertools.pairwise(tokens))


@pytest.mark.parametrize("has_types", [False, True])
def test_a_step_that_is_filled_up_keeps_its_beginning(has_types):
    batch = batch_of(3, 5, has_types=has_types)
    own, _ = place(batch, CPU)
    filled, memory = place(padded(batch, 4, 16), CPU, max_seqlen=16)
    assert own.metadata.max_seqlen == 5
    assert filled.metadata.max_seqlen == 16
    assert own.metadata.cu_seqlens.tolist() == [0, 3, 8]
    assert filled.metadata.cu_seqlens.tolist() == [0, 3, 8, 8, 8]
    assert own.metadata.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert filled.metadata.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4] + [0] * 8
    assert filled.tokens.tolist() == [*batch.tokens, *[0] * 8]
    assert (filled.token_types is not None) == has_types
    assert memory.numel() == 5 + 16 + 16 + 16 * has_types


def test_the_next_step_takes_the_same_memory():
    _, memory = place(padded(batch_of(3, 5), 4, 16), CPU)
    step, again = place(padded(batch_of(7), 4, 16), CPU, out=memory)
    assert again is memory
    assert step.metadata.cu_seqlens.tolist() == [0, 7, 7, 7, 7]
    assert step.tokens.data_ptr() > memory.data_ptr()


def test_a_step_of_hidden_states_has_positions():
    hidden = np.zeros((6, 8), np.float32)
    batch = EncodeBatch(np.array([2, 4], np.int32), ((), ()), None, None, hidden)
    step, _ = place(batch, CPU)
    assert step.tokens is None
    assert step.metadata.positions.tolist() == [0, 1, 0, 1, 2, 3]
    assert step.metadata.ia3_rows is None


def test_every_token_has_the_task_of_its_input():
    batch = replace(batch_of(3, 2), ia3_rows=np.array([2, 1], np.int32))
    step, _ = place(batch, CPU)
    assert step.metadata.ia3_rows.tolist() == [2, 2, 2, 1, 1]
    filled, memory = place(padded(batch, 4, 8), CPU)
    assert filled.metadata.ia3_rows.tolist() == [2, 2, 2, 1, 1, 0, 0, 0]
    assert memory.numel() == 5 + 8 + 8 + 8
