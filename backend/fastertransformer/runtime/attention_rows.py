# SPDX-License-Identifier: BSD-3-Clause
"""A step's sequences as attention takes them, where some of them do not see all that lies behind them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..engine.batch import Batch, Int32Array


@dataclass(frozen=True, slots=True)
class AttentionRows:
    """R sequences of queries; their queries are those of the batch, in the same order."""

    block_tables: Int32Array
    """[R, W]"""
    query_lens: Int32Array
    """[R]"""
    seq_lens: Int32Array
    """[R] keys including this step's"""


def attention_rows(batch: Batch, seq_lens: Int32Array, block_size: int) -> AttentionRows:
    """The batch as it is, with `seq_lens` [B] keys including this step's, but for sequences that forget.

    The queries of one block look back equally far. To attention each block of them is a sequence of its own,
    which begins at the oldest block that they see: positions count from there, and only distances matter.
    """
    if batch.memory_blocks is None:
        return AttentionRows(batch.block_tables, batch.query_lens, seq_lens)
    tables, queries, keys = [], [], []
    for row, memory in enumerate(batch.memory_blocks.tolist()):
        if not memory:
            tables.append(batch.block_tables[row])
            queries.append(int(batch.query_lens[row]))
            keys.append(int(seq_lens[row]))
            continue
        for begin, end in _pieces(int(batch.num_computed[row]), int(seq_lens[row]), block_size):
            oldest = max(0, begin // block_size - memory + 1)
            tables.append(np.roll(batch.block_tables[row], -oldest))
            queries.append(end - begin)
            keys.append(end - oldest * block_size)
    return AttentionRows(np.stack(tables), np.array(queries, np.int32), np.array(keys, np.int32))


def _pieces(start: int, end: int, block_size: int) -> list[tuple[int, int]]:
    """[start, end) cut where blocks end."""
    cuts = [start, *range((start // block_size + 1) * block_size, end, block_size), end]
    return list(pairwise(cuts))
