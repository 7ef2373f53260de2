# SPDX-License-Identifier: BSD-3-Clause
"""Turns the scheduler's choice of sequences into the arrays of a Batch."""

import itertools
from collections.abc import Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..messages import token_ids
from .batch import (
    Admission,
    Batch,
    BeamStep,
    Embeddings,
    Feed,
    FloatArray,
    Int32Array,
    PrefixLoad,
    ia3_row,
    ia3_rows,
    int32_ids,
)
from .block_tables import BlockTables
from .sequence import Sequence


class Entry(NamedTuple):
    """`num_tokens` of one sequence in one step, counted from what was computed before it."""

    sequence: Sequence
    num_tokens: int
    samples: bool = False
    num_context: int = 0
    """Leading tokens whose hidden states are added to the sum that the client wants."""
    num_context_logits: int = 0
    """Leading tokens whose logits the client wants."""


@dataclass(slots=True)
class Budget:
    """What a step may still compute."""

    tokens: int
    context_logits: int
    """Tokens of prompts whose logits are wanted."""

    def most(self, sequence: Sequence) -> int:
        """How many of its tokens `sequence` may compute."""
        count = min(sequence.num_to_compute, self.tokens)
        return min(count, self.context_logits) if sequence.wants_context_logits else count

    def spend(self, entry: Entry) -> None:
        """Takes off what `entry` computes."""
        self.tokens -= entry.num_tokens
        self.context_logits -= entry.num_context_logits


def entry_for(sequence: Sequence, num_tokens: int) -> Entry:
    """An entry samples when it computes the last token that the sequence has."""
    samples = num_tokens == sequence.num_to_compute
    if not sequence.computes_prompt:
        return Entry(sequence, num_tokens, samples)
    of_prompt = max(0, min(num_tokens, sequence.prompt_len - sequence.num_computed))
    return Entry(
        sequence,
        num_tokens,
        samples,
        num_context=of_prompt if sequence.wants_context else 0,
        num_context_logits=of_prompt if sequence.wants_context_logits else 0,
    )


class Planner:
    """Makes step plans; keeps what does not change from one to the next.

    Args:
        num_slots: of the token pool.
        feed: whether the host tells every rank the input token of a decoding sequence,
            because the ranks that embed it are not those that sampled it. Tokens of beams it always tells.
    """

    def __init__(self, num_slots: int, feed: bool) -> None:
        self._tables = BlockTables(num_slots)
        self._feed = feed
        self._last: tuple[List[Entry], Batch] | None = None
        """The last step, where all of it was single tokens of sequences that go on."""

    def plan(self, entries: List[Entry]) -> Batch:
        """The step plan of `entries`, which the scheduler has not yet accounted for."""
        sequences = [entry.sequence for entry in entries]
        starting = [s for s in sequences if not s.is_placed]
        if self._last is not None and not starting and entries == self._last[0]:
            batch = self._one_further(sequences, self._last[1])
            self._last = entries, batch
        else:
            batch = self._plan(entries, sequences, starting)
            # Ranks that must be told every token are told it, also of those that have just started.
            self._last = (entries, batch) if not self._feed and _goes_on(batch) else None
        return batch

    def _one_further(self, sequences: List[Sequence], last: Batch) -> Batch:
        """The step behind `last` for the same sequences: arrays that do not change are the same objects."""
        has_grown = self._tables.update(sequences)
        return Batch(
            slots=last.slots,
            num_computed=last.num_computed + 1,
            query_lens=last.query_lens,
            block_tables=self._tables.own(sequences, last.slots) if has_grown else last.block_tables,
            sample_rows=last.sample_rows,
            memory_blocks=last.memory_blocks,
            logit_rows=last.logit_rows,
            cross=last.cross,
            ia3_rows=last.ia3_rows,
        )

    def _plan(self, entries: List[Entry], sequences: List[Sequence], starting: List[Sequence]) -> Batch:
        fed = [s for s in sequences if (self._feed or s.group is not None) and s.is_placed]
        sampling = [entry.sequence for entry in entries if entry.samples]
        slots, num_computed, query_lens = _array(
            (
                [s.slot for s in sequences],
                [s.num_computed for s in sequences],
                [entry.num_tokens for entry in entries],
            )
        )
        self._tables.update(sequences)
        return Batch(
            slots=slots,
            num_computed=num_computed,
            query_lens=query_lens,
            block_tables=self._tables.own(sequences, slots),
            sample_rows=_array([row for row, entry in enumerate(entries) if entry.samples]),
            memory_blocks=_memory_blocks(sequences),
            admissions=tuple(map(_admission, starting)),
            feed=_feed(fed) if fed else None,
            embeddings=_embeddings(entries),
            prefixes=tuple(load for s in starting if (load := _prefix_load(s)) is not None),
            contexts=_spans(entries, [entry.num_context for entry in entries]),
            context_logits=_spans(entries, [entry.num_context_logits for entry in entries]),
            logit_rows=_array([row for row, s in enumerate(sampling) if s.request.wants_logits]),
            cross=self._tables.cross(sequences, slots) if sequences[0].encoder_len else None,
            beams=_beam_step(entries, sampling),
            ia3_rows=ia3_rows([s.request for s in sequences]),
        )


def _goes_on(batch: Batch) -> bool:
    """Whether its sequences, if they are those of the next step too, are planned by counting on: every one
    computes one token and samples, and beside that nothing is told that changes."""
    is_single = len(batch.sample_rows) == len(batch.slots) == batch.num_tokens
    return is_single and batch.beams is None and batch.embeddings is None


def _array(values: List[int] | tuple[list[int], ...]) -> Int32Array:
    return np.asarray(values, np.int32)


def _memory_blocks(sequences: List[Sequence]) -> Int32Array | None:
    memory_blocks = [s.memory_blocks for s in sequences]
    return _array(memory_blocks) if any(memory_blocks) else None


def _admission(sequence: Sequence) -> Admission:
    encoder_tokens = int32_ids(token_ids() if sequence.is_encoded else sequence.request.encoder_tokens)
    return Admission(
        slot=sequence.slot,
        tokens=int32_ids(sequence.tokens),
        prompt_len=sequence.prompt_len,
        end_ids=sequence.end_ids,
        sampling=sequence.sampling,
        encoder_tokens=encoder_tokens,
        encoder_rows=None if sequence.embeddings is None else _rows(sequence.embeddings, encoder_tokens),
        cross_blocks=_array(sequence.cross_blocks),
        ia3_row=ia3_row(sequence.request),
    )


def _embeddings(entries: List[Entry]) -> Embeddings | None:
    """Rows for the negative tokens of this step."""
    if not [entry for entry in entries if entry.sequence.embeddings is not None]:
        return None
    places: list[int] = []
    rows: list[FloatArray] = []
    for entry, begin in zip(entries, _begins(entries), strict=False):
        sequence, first = entry.sequence, entry.sequence.num_computed
        if sequence.embeddings is not None and first < sequence.prompt_len:
            tokens = int32_ids(sequence.tokens[first : first + entry.num_tokens])
            places += (begin + np.flatnonzero(tokens < 0)).tolist()
            rows.append(_rows(sequence.embeddings, tokens))
    return Embeddings(_array(places), np.concatenate(rows)) if places else None


def _begins(entries: List[Entry]) -> Iterator[int]:
    """Where the tokens of each entry begin in the step, and where the last ones end."""
    return itertools.accumulate((entry.num_tokens for entry in entries), initial=0)


def _rows(table: FloatArray, tokens: Int32Array) -> FloatArray:
    """[n, E] of the negative ones of `tokens`."""
    rows: FloatArray = table[-1 - tokens[tokens < 0]]
    return rows


def _prefix_load(sequence: Sequence) -> PrefixLoad | None:
    """What of its prefix does not lie in blocks that it shares."""
    if sequence.num_shared >= sequence.prefix_len:
        return None
    return PrefixLoad(sequence.request.prompt_task, sequence.num_shared, _array(sequence.blocks))


def _spans(entries: List[Entry], counts: List[int]) -> tuple[tuple[int, int], ...]:
    """[begin, end) in the step's tokens of the first `counts` of each entry, where there are any."""
    if not any(counts):
        return ()
    spans = zip(_begins(entries), counts, strict=False)
    return tuple((begin, begin + count) for begin, count in spans if count)


def _feed(sequences: List[Sequence]) -> Feed:
    return Feed(
        slots=_array([s.slot for s in sequences]),
        positions=_array([len(s.tokens) - 1 for s in sequences]),
        tokens=_array([s.tokens[-1] for s in sequences]),
    )


def _beam_step(entries: List[Entry], sampling: List[Sequence]) -> BeamStep | None:
    beams = [entry.sequence for entry in entries if entry.sequence.group is not None]
    if not beams:
        return None
    slots = [(s.copies_slot, s.slot) for s in beams if s.copies_slot >= 0]
    blocks = [s.copies_block for s in beams if s.copies_block is not None]
    return BeamStep(
        rows=_array([row for row, s in enumerate(sampling) if s.group is not None]),
        num_candidates=max(s.group.num_candidates for s in beams if s.group is not None),
        slot_copies=_pairs(slots),
        block_copies=_pairs(blocks),
    )


def _pairs(pairs: List[tuple[int, int]]) -> Int32Array:
    """[2, N]"""
    return np.asarray(pairs, np.int32).reshape(-1, 2).T
