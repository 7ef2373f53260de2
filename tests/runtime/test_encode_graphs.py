# SPDX-License-Identifier: BSD-3-Clause
"""Steps of encoders as they are laid out for graphs: which sizes there are, and what fills them up."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastertransformer.engine.encode_batch import EncodeBatch
from fastertransformer.runtime.encode_graphs import batch_buckets, reached_buckets, token_buckets
from fastertransformer.runtime.encode_step import EncodeStep, StepLayout, place

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


@pytest.mark.parametrize("largest", [1, 16, 17, 130, 512, 2000, 8192])
def test_buckets_hold_every_step_and_leave_little_empty(largest):
    for buckets in (token_buckets(largest), batch_buckets(largest)):
        assert buckets == sorted(set(buckets))
        assert buckets[-1] == largest
    tokens = token_buckets(largest)
    assert all(above - below <= min(512, max(16, below // 4)) for below, above in itertools.pairwise(tokens))


def laid_out(batch: EncodeBatch, *fields: str) -> tuple[EncodeStep, torch.Tensor]:
    """The batch in a step of 4 inputs and 16 tokens, whose memory held something else before."""
    layout = StepLayout(4, 16, 16, fields)
    memory = torch.full((layout.size,), 77, dtype=torch.int32)
    layout.fill(batch, memory.numpy())
    return layout.step(memory), memory


@pytest.mark.parametrize("has_types", [False, True])
def test_a_step_that_is_filled_up_keeps_its_beginning(has_types):
    batch = batch_of(3, 5, has_types=has_types)
    own = place(batch, CPU)
    filled, _ = laid_out(batch, "tokens", "token_types")
    assert own.metadata.max_seqlen == 5
    assert filled.metadata.max_seqlen == 16
    assert own.metadata.cu_seqlens.tolist() == [0, 3, 8]
    assert filled.metadata.cu_seqlens.tolist() == [0, 3, 8, 8, 8]
    assert own.metadata.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert filled.metadata.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4] + [0] * 8
    assert filled.tokens.tolist() == [*batch.tokens, *[0] * 8]
    assert (own.token_types is not None) == has_types
    assert filled.token_types.tolist() == [*(batch.tokens % 2 * has_types), *[0] * 8]


def test_types_that_a_model_does_not_have_are_left_out():
    step, memory = laid_out(batch_of(3, 5, has_types=True), "tokens")
    assert step.token_types is None
    assert memory.numel() == 5 + 16 + 16


def test_the_next_step_takes_the_same_memory():
    step, memory = laid_out(batch_of(3, 5), "tokens")
    StepLayout(4, 16, 16, ("tokens",)).fill(batch_of(7), memory.numpy())
    assert step.metadata.cu_seqlens.tolist() == [0, 7, 7, 7, 7]
    assert step.metadata.positions.tolist() == [*range(7), *[0] * 9]
    assert step.tokens.tolist() == [*range(1, 8), *[0] * 9]


def test_a_step_of_hidden_states_has_positions():
    hidden = np.zeros((6, 8), np.float32)
    batch = EncodeBatch(np.array([2, 4], np.int32), ((), ()), None, None, hidden)
    step = place(batch, CPU)
    assert step.tokens is None
    assert step.metadata.positions.tolist() == [0, 1, 0, 1, 2, 3]
    assert step.metadata.ia3_rows is None


def test_every_token_has_the_task_of_its_input():
    batch = replace(batch_of(3, 2), ia3_rows=np.array([2, 1], np.int32))
    step = place(batch, CPU)
    assert step.metadata.ia3_rows.tolist() == [2, 2, 2, 1, 1]
    filled, memory = laid_out(batch, "tokens", "ia3_rows")
    assert filled.metadata.ia3_rows.tolist() == [2, 2, 2, 1, 1, *[0] * 11]
    assert memory.numel() == 5 + 16 + 16 + 16


def test_graphs_are_those_that_some_step_needs():
    batch, tokens, longest = [1, 8, 20], [16, 32, 64, 100], 10
    found = reached_buckets(batch, tokens, longest)
    needed = {
        (min(b for b in batch if b >= count), min(t for t in tokens if t >= total))
        for count in range(1, 21)
        for total in range(count, min(count * longest, 100) + 1)
    }
    assert set(found) == needed
    assert found == sorted(needed, key=lambda key: key[::-1], reverse=True)
