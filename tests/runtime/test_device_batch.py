# SPDX-License-Identifier: BSD-3-Clause
"""Steps as they are laid out on the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastertransformer.engine.batch import Batch
from fastertransformer.runtime.device_batch import CacheLayout, place

WORKSPACE = torch.zeros(0)
LAYOUT = CacheLayout(block_size=8, num_kv_heads=2)


def batch_of(query_lens: list[int], ia3_rows: list[int] | None) -> Batch:
    count = len(query_lens)
    return Batch(
        slots=np.arange(count, dtype=np.int32),
        num_computed=np.full(count, 5, np.int32),
        query_lens=np.array(query_lens, np.int32),
        block_tables=np.arange(count * 3, dtype=np.int32).reshape(count, 3)[::-1],
        sample_rows=np.arange(count, dtype=np.int32),
        ia3_rows=None if ia3_rows is None else np.array(ia3_rows, np.int32),
    )


@pytest.mark.parametrize("rows", [None, [0, 3, 1]])
def test_every_token_has_the_task_of_its_sequence(rows):
    step = place(batch_of([2, 1, 3], rows), LAYOUT, WORKSPACE)
    found = step.metadata.ia3_rows
    assert (found is None) if rows is None else found.tolist() == [0, 0, 3, 1, 1, 1]


@pytest.mark.parametrize(
    ("query_lens", "samples", "kept"),
    [
        ([1, 1, 1], [0, 1, 2], None),
        ([1, 1, 1], [0, 2], [0, 2]),
        ([2, 1, 3], [0, 1, 2], [1, 2, 5]),
        ([2, 1, 3], [1], [2]),
        ([6], [], []),
    ],
)
def test_the_last_layer_keeps_what_samples(query_lens, samples, kept):
    batch = replace(batch_of(query_lens, None), sample_rows=np.array(samples, np.int32))
    found = place(batch, LAYOUT, WORKSPACE).kept
    assert (found if found is None else found.tolist()) == kept


def test_every_token_has_its_place():
    batch = batch_of([2, 1, 13], None)
    step = place(batch, LAYOUT, WORKSPACE)
    tokens = [
        (row, position)
        for row, length in enumerate(batch.query_lens.tolist())
        for position in range(5, 5 + length)
    ]
    found = step.metadata
    assert found.positions.tolist() == [position for _, position in tokens]
    assert step.token_slots.tolist() == [row for row, _ in tokens]
    slots = [int(batch.block_tables[row, at // 8]) * 8 + at % 8 for row, at in tokens]
    assert found.slot_mapping.tolist() == slots
    assert found.cu_seqlens_q.tolist() == [0, 2, 3, 16]
    assert found.seq_lens.tolist() == [7, 6, 18]
    assert step.last_tokens.tolist() == [1, 2, 15]
