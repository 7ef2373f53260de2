# SPDX-License-Identifier: BSD-3-Clause
"""The plan of one step: what rank 0 decides and every rank executes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..messages import AnyRequest, SamplingParams, TokenIds

Int32Array = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

MAX_CONTEXT_LOGITS_BYTES = 64 << 20
"""Of the tokens of prompts whose logits one step gives back, in float32."""


def max_context_logits(vocab_size: int) -> int:
    """How many tokens these are, at least one."""
    return max(1, MAX_CONTEXT_LOGITS_BYTES // (4 * vocab_size))


def int32_array(values: Sequence[int]) -> Int32Array:
    """Of all blocks of a sequence; numpy alone takes twice as long."""
    return np.frombuffer(struct.pack(f"{len(values)}i", *values), np.int32)


def int32_ids(tokens: TokenIds | Sequence[int]) -> Int32Array:
    """A copy of tokens of a sequence, as devices and digests take them."""
    return np.array(tokens, np.int32)


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence that takes a slot in this step: its tokens go into the token pool."""

    slot: int
    tokens: Int32Array
    """Prompt, and after a preemption also what was generated before it."""
    prompt_len: int
    end_ids: tuple[int, ...]
    """What ends this sequence: the request's own choice or the checkpoint's."""
    sampling: SamplingParams
    encoder_tokens: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    """What is encoded in this step; empty where there is no encoder or somebody has done it."""
    encoder_rows: FloatArray | None = None
    """[n, E] what replaces the word table's rows for the negative ones of them, in their order."""
    cross_blocks: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    """KV block of every block_size of them."""
    ia3_row: int = 0
    """1 + its IA3 task, or 0."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens [F] that the host knows and a rank that did not sample them needs in its token pool."""

    slots: Int32Array
    positions: Int32Array
    tokens: Int32Array


@dataclass(frozen=True, slots=True)
class Cross:
    """What the B sequences of a batch see of their encoders."""

    block_tables: Int32Array
    """[B, W] KV block of every block_size tokens of the encoder's input; behind them any block."""
    seq_lens: Int32Array
    """[B] length of that input"""


@dataclass(frozen=True, slots=True)
class BeamStep:
    """What beams add to a step: copies that come before everything else, and rows that get candidates."""

    rows: Int32Array
    """[R] indices into S, ascending."""
    num_candidates: int
    """K, the same for all rows."""
    slot_copies: Int32Array
    """[2, D] rows of the token pool, from and to; none is both."""
    block_copies: Int32Array
    """[2, C] KV blocks, from and to; none is both."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What replaces the word table's rows for some tokens of the step."""

    tokens: Int32Array
    """[N] indices into the step's tokens."""
    rows: FloatArray
    """[N, E]"""


@dataclass(frozen=True, slots=True)
class PrefixLoad:
    """Keys and values of a prefix prompt that a sequence gets before its first step."""

    task: int
    begin: int
    """The first of them that is not in the cache yet."""
    blocks: Int32Array
    """Of the sequence."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences, S of which sample a token. Immutable after broadcast.

    Sequence i computes tokens [num_computed[i], num_computed[i] + query_lens[i]) of its row of
    the token pool; one that samples writes its new token right behind them.
    """

    slots: Int32Array
    """[B] row of the token pool and of the sampling table. The same object as in a step before: since that
    one the same sequences have computed and sampled one token in every step; only `num_computed` and
    `block_tables` are others."""
    num_computed: Int32Array
    """[B] tokens whose keys and values are in the cache before this step."""
    query_lens: Int32Array
    """[B]"""
    block_tables: Int32Array
    """[B, W] KV block of every block_size tokens; behind them any block."""
    sample_rows: Int32Array
    """[S] indices into B, ascending."""
    memory_blocks: Int32Array | None = None
    """[B] how many blocks a token sees, its own included; 0, or None for all sequences: all of them."""
    admissions: tuple[Admission, ...] = ()
    feed: Feed | None = None
    cross: Cross | None = None
    """In a model with an encoder."""
    beams: BeamStep | None = None
    embeddings: Embeddings | None = None
    prefixes: tuple[PrefixLoad, ...] = ()
    contexts: tuple[tuple[int, int], ...] = ()
    """[begin, end) of the step's tokens whose hidden states are wanted as a sum."""
    ia3_rows: Int32Array | None = None
    """[B] 1 + IA3 task of each sequence, 0 for none; None: no sequence has one."""
    context_logits: tuple[tuple[int, int], ...] = ()
    """[begin, end) of the step's tokens whose logits are wanted."""
    logit_rows: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    """[G] indices into S, ascending: the rows whose logits are wanted as the sampler gets them."""

    @property
    def num_tokens(self) -> int:
        return int(np.add.reduce(self.query_lens))  # `sum` adds a call in Python


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the runner sampled, in the order of `Batch.sample_rows`."""

    tokens: Int32Array
    """[S]"""
    logprobs: FloatArray
    """[S] 0 where the request did not ask."""
    candidate_tokens: Int32Array = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    """[R, K] the most probable next tokens of the rows of beams, best first."""
    candidate_logprobs: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """[R, K]"""
    contexts: npt.NDArray[np.float64] | None = None
    """[C, H] sums for `Batch.contexts`; None where there are none."""
    context_logits: tuple[FloatArray, ...] = ()
    """[end - begin, V] for each of `Batch.context_logits`."""
    logits: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """[G, V] for `Batch.logit_rows`."""


def ia3_rows(requests: Sequence[AnyRequest]) -> Int32Array | None:
    """[B] as of Batch."""
    rows = [ia3_row(request) for request in requests]
    return np.array(rows, np.int32) if any(rows) else None


def ia3_row(request: AnyRequest) -> int:
    """As of Admission."""
    return 0 if request.ia3_task is None else 1 + request.ia3_task
