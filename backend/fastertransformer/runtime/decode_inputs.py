# SPDX-License-Identifier: BSD-3-Clause
"""What the graphs of decode steps read: of single tokens most is the same from one step to the next."""

import numpy as np

from .. import ops
from ..engine.batch import Batch, Cross, Int32Array
from .attention_rows import attention_rows
from .buckets import Bucket
from .device_batch import NOBODYS, CacheLayout, num_candidates
from .step_inputs import StepInputs

_COUNTING = ("last_tokens", "cu_seqlens_q", "cross_cu_seqlens_q")


class DecodeInputs(StepInputs):
    """The same in less time, where every sequence computes one token and samples. Rows of nobody have a token
    here, but no key."""

    def __init__(
        self, bucket: Bucket, layout: CacheLayout, table_width: int, cross_width: int, has_ia3: bool
    ) -> None:
        super().__init__(bucket, layout, table_width, cross_width, has_ia3)
        for array in (self.arrays[name] for name in _COUNTING if name in self.arrays):
            array[:] = np.arange(array.size)
        self._rows = np.arange(bucket.sequences)
        self._num_filled = 0
        self._cross: Cross | None = None
        """Of the last batch; it is the same object as long as the sequences are the same."""

    def fill(self, batch: Batch) -> Int32Array:
        """All arrays with a batch of single tokens that all sample; valid until the next call."""
        arrays, block_size = self.arrays, self._layout.block_size
        count, positions = len(batch.slots), batch.num_computed
        lengths = positions + 1
        attended = attention_rows(batch, lengths, block_size)
        blocks = batch.block_tables[self._rows[:count], positions // block_size]
        per_row: dict[str, Int32Array | int] = {
            "positions": positions,
            "slot_mapping": blocks * block_size + positions % block_size,
            "token_slots": batch.slots,
            "sample_slots": batch.slots,
            "sample_positions": lengths,
            "num_candidates": 0 if batch.beams is None else num_candidates(batch),
        }
        if "ia3_rows" in arrays:
            per_row["ia3_rows"] = 0 if batch.ia3_rows is None else batch.ia3_rows
        for name, values in per_row.items():
            arrays[name][:count] = values
            arrays[name][count : self._num_filled] = NOBODYS.get(name, 0)
        self._num_filled = count
        self._fill_attention("", attended.block_tables, attended.seq_lens)
        if batch.cross is not None and batch.cross is not self._cross:
            self._fill_attention("cross_", batch.cross.block_tables, batch.cross.seq_lens)
            self._cross = batch.cross
        return self.packed

    def _fill_attention(self, prefix: str, block_tables: Int32Array, seq_lens: Int32Array) -> None:
        """Block tables and lengths, and the work that follows from them."""
        rows, columns = block_tables.shape
        self.arrays[prefix + "block_tables"][:rows, :columns] = block_tables
        lengths = self.arrays[prefix + "seq_lens"]
        lengths[:rows], lengths[rows:] = seq_lens, 0
        chunks = ops.num_key_chunks(lengths, self._layout.num_kv_heads)
        np.cumsum(chunks, out=self.arrays[prefix + "work"][0, 1:])
