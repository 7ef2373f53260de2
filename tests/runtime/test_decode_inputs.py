# SPDX-License-Identifier: BSD-3-Clause
"""What graphs of decode steps read is what a step of its own would, and behind it there is nobody."""

import dataclasses

import numpy as np
import pytest

from fastertransformer.engine.batch import Batch, BeamStep, Cross
from fastertransformer.runtime.decode_inputs import DecodeInputs
from fastertransformer.runtime.device_batch import CacheLayout, step_arrays

LAYOUT = CacheLayout(block_size=8, num_kv_heads=2)
SIZE, TABLE_WIDTH, CROSS_WIDTH = 4, 80, 40
NOBODYS = {
    "slot_mapping": -1,
    "sample_slots": -1,
    "seq_lens": 0,
    "cross_seq_lens": 0,
    "token_slots": 0,
    "num_candidates": 0,
    "ia3_rows": 0,
}


def batch_of(*num_computed: int, seed: int = 0) -> Batch:
    """Single tokens, in an order of slots that is not theirs."""
    count, random = len(num_computed), np.random.default_rng(seed)
    return Batch(
        slots=np.arange(count, dtype=np.int32)[::-1].copy(),
        num_computed=np.array(num_computed, np.int32),
        query_lens=np.ones(count, np.int32),
        block_tables=random.integers(0, 1000, (count, max(num_computed) // 8 + 1)).astype(np.int32),
        sample_rows=np.arange(count, dtype=np.int32),
    )


def with_encoder(batch: Batch, *seq_lens: int) -> Batch:
    tables = np.arange(len(seq_lens) * 33, dtype=np.int32).reshape(-1, 33)
    return dataclasses.replace(batch, cross=Cross(tables, np.array(seq_lens, np.int32)))


def with_beams(batch: Batch, rows: list[int]) -> Batch:
    none = np.zeros((2, 0), np.int32)
    return dataclasses.replace(batch, beams=BeamStep(np.array(rows, np.int32), 8, none, none))


def arrays_of(packed: np.ndarray, inputs: DecodeInputs) -> dict[str, np.ndarray]:
    """`packed` by the names and shapes that its graph reads."""
    shapes = step_arrays(inputs.nobody, LAYOUT)
    ends = np.cumsum([array.size for array in shapes.values()])
    parts = zip(shapes.items(), np.split(packed, ends[:-1]), strict=True)
    return {name: part.reshape(array.shape) for (name, array), part in parts}


def check(inputs: DecodeInputs, batch: Batch) -> None:
    """As the step's own arrays, where it has any."""
    found, count = arrays_of(inputs.fill(batch), inputs), len(batch.slots)
    for name, array in step_arrays(batch, LAYOUT).items():
        if name.endswith("work"):
            assert found[name][:, : count + 1].tolist() == array.tolist(), name
            assert (found[name][:, count + 1 :] == array[:, -1:]).all(), name
        elif array.ndim == 2:
            assert found[name][:count, : array.shape[1]].tolist() == array.tolist(), name
        else:
            assert found[name][: len(array)].tolist() == array.tolist(), name
    for name, value in NOBODYS.items():
        assert (found.get(name, np.zeros(0))[count:] == value).all(), name


def test_rows_of_an_earlier_step_are_gone():
    inputs = DecodeInputs(SIZE, LAYOUT, TABLE_WIDTH, 0, has_ia3=False)
    check(inputs, batch_of(5, 600, 17, 8))
    check(inputs, batch_of(6, 601))
    check(inputs, batch_of(7, 602, 3))


def test_beams_have_candidates_as_long_as_they_are_in_the_step():
    inputs = DecodeInputs(SIZE, LAYOUT, TABLE_WIDTH, 0, has_ia3=False)
    check(inputs, with_beams(batch_of(5, 6, 7), [0, 2]))
    check(inputs, batch_of(6, 7, 8))


def test_sequences_that_forget_see_their_last_blocks():
    batch = dataclasses.replace(batch_of(5, 600, 17), memory_blocks=np.array([0, 3, 1], np.int32))
    check(DecodeInputs(SIZE, LAYOUT, TABLE_WIDTH, 0, has_ia3=False), batch)


@pytest.mark.parametrize("keeps_cross", [True, False])
def test_encoders_are_those_of_the_batch(keeps_cross):
    inputs = DecodeInputs(SIZE, LAYOUT, TABLE_WIDTH, CROSS_WIDTH, has_ia3=False)
    first = with_encoder(batch_of(5, 6, 7), 3, 260, 9)
    check(inputs, first)
    again = first if keeps_cross else with_encoder(batch_of(6, 7, 8), 3, 260, 9)
    check(inputs, again)
    check(inputs, with_encoder(batch_of(1, 2), 257, 1))
    check(inputs, first)


def test_every_row_has_the_task_of_its_sequence():
    inputs = DecodeInputs(SIZE, LAYOUT, TABLE_WIDTH, 0, has_ia3=True)
    check(inputs, dataclasses.replace(batch_of(5, 6), ia3_rows=np.array([3, 1], np.int32)))
    found = arrays_of(inputs.fill(batch_of(5, 6)), inputs)
    assert found["ia3_rows"].tolist() == [0] * SIZE
