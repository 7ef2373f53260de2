# SPDX-License-Identifier: BSD-3-Clause
"""Tables of blocks that grow with their sequences, and follow them where blocks are replaced."""

import numpy as np

from fastertransformer.engine.block_pool import GONE
from fastertransformer.engine.block_tables import BlockTables
from fastertransformer.engine.sequence import Sequence
from fastertransformer.messages import Request, SamplingParams, token_ids


def sequence_of(
    slot: int, blocks: list[int], cross_blocks: tuple[int, ...] = (), encoder_len: int = 0
) -> Sequence:
    request = Request(
        slot, token_ids((1,)), SamplingParams(max_tokens=9), encoder_tokens=token_ids((5,) * encoder_len)
    )
    sequence = Sequence(0, request, (), [1])
    sequence.slot, sequence.blocks, sequence.cross_blocks = slot, blocks, list(cross_blocks)
    return sequence


def rows_of(tables: BlockTables, *sequences: Sequence) -> list[list[int]]:
    """The blocks of each, without what lies behind them."""
    tables.update(sequences)
    found = tables.own(sequences, np.array([s.slot for s in sequences], np.int32))
    return [row[: len(s.blocks)].tolist() for row, s in zip(found, sequences, strict=True)]


def test_rows_grow_with_their_sequences():
    tables, one, other = BlockTables(4), sequence_of(3, [7, 8]), sequence_of(1, [9])
    assert rows_of(tables, one, other) == [[7, 8], [9]]
    one.blocks += [4]
    other.blocks += [*range(20, 40)]
    assert rows_of(tables, other) == [[9, *range(20, 40)]]
    assert rows_of(tables, one) == [[7, 8, 4]]


def test_a_step_keeps_its_rows_when_the_next_one_is_planned():
    tables, sequence = BlockTables(1), sequence_of(0, [7])
    tables.update([sequence])
    first = tables.own([sequence], np.zeros(1, np.int32))
    sequence.vacate()
    sequence.slot, sequence.blocks = 0, [5, 6]
    assert rows_of(tables, sequence) == [[5, 6]]
    assert first.tolist() == [[7]]


def test_what_is_gone_is_some_block():
    tables, sequence = BlockTables(1), sequence_of(0, [GONE, GONE, 3])
    assert rows_of(tables, sequence) == [[0, 0, 3]]


def test_encoders_are_kept_until_the_sequences_change():
    tables = BlockTables(2)
    one, other = sequence_of(0, [7], (1, 2), encoder_len=7), sequence_of(1, [8], (3,), encoder_len=3)
    slots = np.arange(2, dtype=np.int32)
    tables.update([one, other])
    cross = tables.cross([one, other], slots)
    assert cross.block_tables[0].tolist() == [1, 2]
    assert cross.block_tables[1, :1].tolist() == [3]
    assert cross.seq_lens.tolist() == [7, 3]
    one.blocks += [9]
    tables.update([one, other])
    assert tables.cross([one, other], slots) is cross
    assert tables.cross([other], slots[1:]).seq_lens.tolist() == [3]
    one.vacate()
    newcomer = sequence_of(0, [6], (5, 6), encoder_len=5)
    tables.update([newcomer, other])
    assert tables.cross([newcomer, other], slots).block_tables[0].tolist() == [5, 6]
