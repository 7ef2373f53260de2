# SPDX-License-Identifier: BSD-3-Clause
"""Turns the scheduler's choice of sequences into the arrays of a Batch."""

import itertools
from collections.abc import Sequence as List
from dataclasses import dataclass

import numpy as np

from .batch import Admission, Batch, Embeddings, Feed, FloatArray, Int32Array, PrefixLoad
from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class Entry:
    """`num_tokens` of one sequence in one step, counted from what was computed before it."""

    sequence: Sequence
    num_tokens: int
    samples: bool = False
    num_context: int = 0
    """Leading tokens whose hidden states are added to the sum that the client wants."""


def entry_for(sequence: Sequence, num_tokens: int) -> Entry:
    """An entry samples when it computes the last token that the sequence has."""
    prompt_left = sequence.prompt_len - sequence.num_computed if sequence.wants_context else 0
    num_context = max(0, min(num_tokens, prompt_left))
    return Entry(sequence, num_tokens, num_tokens == sequence.num_to_compute, num_context)


def build_batch(entries: List[Entry], admitted: List[Entry], feed: bool) -> Batch:
    """The step plan of `entries`, which the scheduler has not yet accounted for.

    Args:
        feed: whether the host tells every rank the input token of a decoding sequence,
            because the ranks that embed it are not those that sampled it.
    """
    sequences = [entry.sequence for entry in entries]
    continued = sequences[: len(entries) - len(admitted)]
    return Batch(
        slots=_array([s.slot for s in sequences]),
        num_computed=_array([s.num_computed for s in sequences]),
        query_lens=_array([entry.num_tokens for entry in entries]),
        block_tables=_block_tables(sequences),
        sample_rows=_array([row for row, entry in enumerate(entries) if entry.samples]),
        memory_blocks=_memory_blocks(sequences),
        admissions=tuple(_admission(entry.sequence) for entry in admitted),
        feed=_feed(continued) if feed else None,
        embeddings=_embeddings(entries),
        prefixes=tuple(load for entry in admitted if (load := _prefix_load(entry.sequence)) is not None),
        contexts=_contexts(entries),
    )


def _array(values: List[int]) -> Int32Array:
    return np.asarray(values, np.int32)


def _block_tables(sequences: List[Sequence]) -> Int32Array:
    tables = np.zeros((len(sequences), max(len(s.blocks) for s in sequences)), np.int32)
    for row, sequence in zip(tables, sequences, strict=True):
        row[: len(sequence.blocks)] = sequence.blocks
    return np.maximum(tables, 0)  # what is gone is not read


def _memory_blocks(sequences: List[Sequence]) -> Int32Array | None:
    return _array([s.memory_blocks for s in sequences]) if any(s.memory_blocks for s in sequences) else None


def _admission(sequence: Sequence) -> Admission:
    return Admission(
        slot=sequence.slot,
        tokens=_array(sequence.tokens),
        prompt_len=sequence.prompt_len,
        end_ids=sequence.end_ids,
        sampling=sequence.sampling,
    )


def _embeddings(entries: List[Entry]) -> Embeddings | None:
    """Rows for the negative tokens of this step."""
    places: list[int] = []
    rows: list[FloatArray] = []
    begin = 0
    for entry in entries:
        sequence, first = entry.sequence, entry.sequence.num_computed
        if sequence.embeddings is not None and first < sequence.prompt_len:
            tokens = _array(sequence.tokens[first : first + entry.num_tokens])
            found = np.flatnonzero(tokens < 0)
            places += (begin + found).tolist()
            rows.append(sequence.embeddings[-1 - tokens[found]])
        begin += entry.num_tokens
    return Embeddings(_array(places), np.concatenate(rows)) if places else None


def _prefix_load(sequence: Sequence) -> PrefixLoad | None:
    """What of its prefix does not lie in blocks that it shares."""
    if sequence.num_shared >= sequence.prefix_len:
        return None
    return PrefixLoad(sequence.request.prompt_task, sequence.num_shared, _array(sequence.blocks))


def _contexts(entries: List[Entry]) -> tuple[tuple[int, int], ...]:
    begins = itertools.accumulate((entry.num_tokens for entry in entries), initial=0)
    return tuple(
        (begin, begin + entry.num_context)
        for begin, entry in zip(begins, entries, strict=False)
        if entry.num_context
    )


def _feed(sequences: List[Sequence]) -> Feed:
    return Feed(
        slots=_array([s.slot for s in sequences]),
        positions=_array([len(s.tokens) - 1 for s in sequences]),
        tokens=_array([s.tokens[-1] for s in sequences]),
    )
