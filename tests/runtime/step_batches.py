# SPDX-License-Identifier: BSD-3-Clause
"""Batches as graphs get them, and what must lie in the inputs that were filled with one."""

import dataclasses

import numpy as np

from fastertransformer.engine.batch import Batch, BeamStep, Cross
from fastertransformer.runtime.device_batch import CacheLayout, step_arrays
from fastertransformer.runtime.step_inputs import StepInputs

LAYOUT = CacheLayout(block_size=8, num_kv_heads=2)
TABLE_WIDTH, CROSS_WIDTH = 80, 40
NOBODYS = {
    "slot_mapping": -1,
    "sample_slots": -1,
    "seq_lens": 0,
    "cross_seq_lens": 0,
    "positions": 0,
    "token_slots": 0,
    "num_candidates": 0,
    "ia3_rows": 0,
}


def batch_of(
    *num_computed: int, query_lens: list[int] | None = None, samples: list[int] | None = None, seed: int = 0
) -> Batch:
    """In an order of slots that is not theirs.

    Args:
        query_lens: single tokens unless given. samples: which of the sequences do, all unless given.
    """
    count, random = len(num_computed), np.random.default_rng(seed)
    lens = np.array(query_lens or [1] * count, np.int32)
    longest = int((np.array(num_computed) + lens).max())
    return Batch(
        slots=np.arange(count, dtype=np.int32)[::-1].copy(),
        num_computed=np.array(num_computed, np.int32),
        query_lens=lens,
        block_tables=random.integers(0, 1000, (count, -(-longest // 8))).astype(np.int32),
        sample_rows=np.array(range(count) if samples is None else samples, np.int32),
    )


def with_encoder(batch: Batch, *seq_lens: int) -> Batch:
    tables = np.arange(len(seq_lens) * 33, dtype=np.int32).reshape(-1, 33)
    return dataclasses.replace(batch, cross=Cross(tables, np.array(seq_lens, np.int32)))


def with_beams(batch: Batch, rows: list[int]) -> Batch:
    none = np.zeros((2, 0), np.int32)
    return dataclasses.replace(batch, beams=BeamStep(np.array(rows, np.int32), 8, none, none))


def check(inputs: StepInputs, batch: Batch, layout: CacheLayout = LAYOUT) -> None:
    """What is filled in is the step's own arrays, where it has any, and behind them nobody's."""
    packed = inputs.fill(batch)
    ends = np.cumsum([array.size for array in inputs.arrays.values()])
    assert len(packed) == ends[-1]
    parts = np.split(packed, ends[:-1])
    found = {
        name: part.reshape(inputs.arrays[name].shape) for name, part in zip(inputs.arrays, parts, strict=True)
    }
    for name, array in step_arrays(batch, layout).items():
        count = array.shape[-1]
        if name.endswith("work"):
            assert found[name][:, :count].tolist() == array.tolist(), name
            assert (found[name][:, count:] == array[:, -1:]).all(), name
        elif array.ndim == 2:
            assert found[name][: len(array), :count].tolist() == array.tolist(), name
        else:
            assert found[name][:count].tolist() == array.tolist(), name
            if name in NOBODYS:
                assert (found[name][count:] == NOBODYS[name]).all(), name
    if batch.ia3_rows is None and "ia3_rows" in found:
        assert not found["ia3_rows"].any()
