# SPDX-License-Identifier: BSD-3-Clause
"""What the graphs of decode steps read, as the host keeps it from one step to the next."""

import numpy as np

from .. import ops
from ..engine.batch import Batch, Cross, Int32Array
from .attention_rows import attention_rows
from .device_batch import NO_SLOT, CacheLayout, num_candidates, step_arrays


class DecodeInputs:
    """The arrays of a step of `size` single tokens, side by side in one that is filled in place.

    Rows behind those of a batch belong to nobody. What is the same for all batches is written once, and
    entries of block tables behind those that a row needs stay what they were: nothing reads them.

    Args:
        table_width, cross_width: columns of the block tables; the second one 0: there is no encoder.
        has_ia3: the model has tasks.
    """

    def __init__(
        self, size: int, layout: CacheLayout, table_width: int, cross_width: int, has_ia3: bool
    ) -> None:
        self.nobody = _nobody(size, table_width, cross_width, has_ia3)
        """A batch without a row of anybody."""
        self._layout = layout
        self._rows = np.arange(size)
        arrays = step_arrays(self.nobody, layout)
        self._packed: Int32Array = np.concatenate([array.ravel() for array in arrays.values()])
        ends = np.cumsum([array.size for array in arrays.values()])
        parts = zip(arrays.items(), np.split(self._packed, ends[:-1]), strict=True)
        self._arrays = {name: part.reshape(array.shape) for (name, array), part in parts}
        self._nobodys = {name: int(array.flat[0]) for name, array in arrays.items()}
        self._num_filled = 0
        self._cross: Cross | None = None
        """Of the last batch; it is the same object as long as the sequences are the same."""

    def fill(self, batch: Batch) -> Int32Array:
        """All arrays with a batch of single tokens that all sample; valid until the next call."""
        arrays, block_size = self._arrays, self._layout.block_size
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
            arrays[name][count : self._num_filled] = self._nobodys[name]
        self._num_filled = count
        self._fill_attention("", attended.block_tables, attended.seq_lens)
        if batch.cross is not None and batch.cross is not self._cross:
            self._fill_attention("cross_", batch.cross.block_tables, batch.cross.seq_lens)
            self._cross = batch.cross
        return self._packed

    def _fill_attention(self, prefix: str, block_tables: Int32Array, seq_lens: Int32Array) -> None:
        """Block tables and lengths, and the work that follows from them."""
        rows, columns = block_tables.shape
        self._arrays[prefix + "block_tables"][:rows, :columns] = block_tables
        lengths = self._arrays[prefix + "seq_lens"]
        lengths[:rows], lengths[rows:] = seq_lens, 0
        chunks = ops.num_key_chunks(lengths, self._layout.num_kv_heads)
        np.cumsum(chunks, out=self._arrays[prefix + "work"][0, 1:])


def _nobody(size: int, table_width: int, cross_width: int, has_ia3: bool) -> Batch:
    zeros = np.zeros(size, np.int32)
    return Batch(
        slots=np.full(size, NO_SLOT, np.int32),
        num_computed=zeros,
        query_lens=np.ones(size, np.int32),
        block_tables=np.zeros((size, table_width), np.int32),
        sample_rows=np.arange(size, dtype=np.int32),
        cross=Cross(np.zeros((size, cross_width), np.int32), zeros) if cross_width else None,
        ia3_rows=zeros if has_ia3 else None,
    )
