# SPDX-License-Identifier: BSD-3-Clause
"""The blocks of running sequences as arrays, which a step takes rows of: lists are converted as they grow."""

from collections.abc import Sequence as List

import numpy as np

from .batch import Cross, Int32Array, int32_array
from .sequence import Sequence


class _Rows:
    """One row of blocks per slot, as wide as the longest so far; what lies behind those of its sequence is
    stale."""

    def __init__(self, num_slots: int) -> None:
        self._array = np.zeros((num_slots, 1), np.int32)

    def put(self, slot: int, blocks: List[int], first: int) -> None:
        """Writes `blocks` from the `first` on."""
        missing = len(blocks) - self._array.shape[1]
        if missing > 0:
            self._array = np.pad(self._array, ((0, 0), (0, max(missing, self._array.shape[1]))))
        # What is gone is not read.
        np.maximum(int32_array(blocks[first:]), 0, out=self._array[slot, first : len(blocks)])

    def take(self, slots: Int32Array, width: int) -> Int32Array:
        """[B, width]"""
        rows: Int32Array = self._array[slots, :width]
        return rows


class BlockTables:
    """What the sequences of a step hold, and what they see of their encoders."""

    def __init__(self, num_slots: int) -> None:
        self._own = _Rows(num_slots)
        self._cross = _Rows(num_slots)
        self._last_cross: tuple[list[int], Cross] | None = None
        """That of the last step, and the slots it is of."""

    def update(self, sequences: List[Sequence]) -> bool:
        """Takes in the blocks that they got since their last step; whether there are any."""
        grown = [s for s in sequences if s.num_tabled < len(s.blocks)]
        for sequence in grown:
            if sequence.num_tabled == 0 and sequence.cross_blocks:
                self._cross.put(sequence.slot, sequence.cross_blocks, 0)
                self._last_cross = None
            self._own.put(sequence.slot, sequence.blocks, sequence.num_tabled)
            sequence.num_tabled = len(sequence.blocks)
        return bool(grown)

    def own(self, sequences: List[Sequence], slots: Int32Array) -> Int32Array:
        """[B, W] as of Batch."""
        return self._own.take(slots, max([len(s.blocks) for s in sequences]))

    def cross(self, sequences: List[Sequence], slots: Int32Array) -> Cross:
        """The same object as long as the sequences are the same."""
        key = slots.tolist()
        if self._last_cross is None or self._last_cross[0] != key:
            tables = self._cross.take(slots, max(len(s.cross_blocks) for s in sequences))
            seq_lens = np.array([s.encoder_len for s in sequences], np.int32)
            self._last_cross = key, Cross(tables, seq_lens)
        return self._last_cross[1]
