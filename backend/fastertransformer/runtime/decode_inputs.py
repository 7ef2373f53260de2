# SPDX-License-Identifier: BSD-3-Clause
"""What the graphs of decode steps read: of single tokens most is the same from one step to the next."""

import math

import numpy as np

from .. import ops
from ..engine.batch import Batch, Cross, Int32Array
from .attention_rows import attention_rows
from .buckets import Bucket
from .device_batch import NOBODYS, CacheLayout, num_candidates, slot_mapping
from .step_inputs import StepInputs

_SAME = ("last_tokens", "cu_seqlens_q", "cross_cu_seqlens_q")
"""In every step."""
_COUNTING = ("positions", "slot_mapping", "sample_positions", "seq_lens")
_OF_ROWS = ("positions", "slot_mapping", "token_slots", "sample_slots", "sample_positions", "num_candidates")


class DecodeInputs(StepInputs):
    """The same in less time, where every sequence computes one token and samples. Rows of nobody have a token
    here, but no key.

    As long as the sequences are the same and none begins a block, all that changes counts on; what a batch
    has in the same object as the last one is not written again.
    """

    def __init__(
        self, bucket: Bucket, layout: CacheLayout, table_width: int, cross_width: int, has_ia3: bool
    ) -> None:
        super().__init__(bucket, layout, table_width, cross_width, has_ia3)
        for array in (self.arrays[name] for name in _SAME if name in self.arrays):
            array[:] = np.arange(array.size)
        self._rows: Int32Array = np.arange(bucket.sequences, dtype=np.int32)
        self._period = math.gcd(layout.block_size, ops.chunk_keys(layout.num_kv_heads))
        self._slots: Int32Array | None = None
        self._block_tables: Int32Array | None = None
        self._cross: Cross | None = None
        self._counters: list[Int32Array] = []
        """The rows of the batch in `_COUNTING`."""
        self._steps_left = 0
        """How often they may count on."""

    def fill(self, batch: Batch) -> Int32Array:
        """All arrays with a batch of single tokens that all sample; valid until the next call."""
        if batch.slots is self._slots and batch.block_tables is self._block_tables:
            steps = batch.num_computed - self._counters[0]  # an array is added faster than a number
            if 0 <= steps.item(0) <= self._steps_left:
                for counter in self._counters:
                    np.add(counter, steps, out=counter)
                self._steps_left -= steps.item(0)
                return self.packed
        if batch.slots is not self._slots:
            self._fill_sequences(batch)
        self._fill_step(batch)
        self._slots, self._block_tables, self._cross = batch.slots, batch.block_tables, batch.cross
        return self.packed

    def _fill_step(self, batch: Batch) -> None:
        arrays, count, block_size = self.arrays, len(batch.slots), self._layout.block_size
        positions, lengths = batch.num_computed, batch.num_computed + 1
        arrays["positions"][:count] = positions
        arrays["sample_positions"][:count] = lengths
        arrays["slot_mapping"][:count] = slot_mapping(
            batch.block_tables, self._rows[:count], positions, block_size
        )
        attended = attention_rows(batch, lengths, block_size)
        self._fill_attention("", attended.block_tables, attended.seq_lens)
        if batch.cross is not None and batch.cross is not self._cross:
            self._fill_attention("cross_", batch.cross.block_tables, batch.cross.seq_lens)
        self._counters = [arrays[name][:count] for name in _COUNTING]
        self._steps_left = self._period - 1 - int((positions % self._period).max())

    def _fill_sequences(self, batch: Batch) -> None:
        """What stays the same as long as the sequences do, and nobody's rows behind them."""
        arrays, count = self.arrays, len(batch.slots)
        for name in _OF_ROWS:
            arrays[name][count:] = NOBODYS.get(name, 0)
        arrays["token_slots"][:count] = arrays["sample_slots"][:count] = batch.slots
        arrays["num_candidates"][:count] = num_candidates(batch)
        if "ia3_rows" in arrays:
            arrays["ia3_rows"][:] = 0
            arrays["ia3_rows"][:count] = 0 if batch.ia3_rows is None else batch.ia3_rows

    def _fill_attention(self, prefix: str, block_tables: Int32Array, seq_lens: Int32Array) -> None:
        """Block tables and lengths, and the work that follows from them."""
        rows, columns = block_tables.shape
        self.arrays[prefix + "block_tables"][:rows, :columns] = block_tables
        lengths = self.arrays[prefix + "seq_lens"]
        lengths[:rows], lengths[rows:] = seq_lens, 0
        chunks = ops.num_key_chunks(lengths, self._layout.num_kv_heads)
        np.cumsum(chunks, out=self.arrays[prefix + "work"][0, 1:])
