# SPDX-License-Identifier: BSD-3-Clause
"""One request inside the engine: its tokens, how far they are computed, what it holds."""

import math
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from ..messages import Beam, FinishReason, Output, Request, SamplingParams, TokenIds
from .sessions import SessionKey

if TYPE_CHECKING:
    from .beams import BeamGroup

_LEAST_LOGPROB = -1e20
"""For what has none, or one that no JSON holds: numbers that overflowed, or nothing that could be taken."""
SequenceKey = tuple[int, int]
"""(client, the client's request id)"""


class State(Enum):
    """Where a sequence is. Only RUNNING ones get tokens to compute."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    """Waits for the batches in flight that name it, then goes back to WAITING."""
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Sequence:
    """`tokens` are those the host knows; up to `num_pending` more are sampled by batches in flight."""

    client: int
    request: Request
    end_ids: tuple[int, ...]
    tokens: TokenIds
    state: State = State.WAITING
    num_computed: int = 0
    """Tokens whose keys and values are in the cache once all batches in flight are done."""
    num_pending: int = 0
    num_in_flight: int = 0
    """Batches in flight that name this sequence: its slot and blocks must stay."""
    slot: int = -1
    blocks: list[int] = field(default_factory=list)
    num_tabled: int = 0
    """Leading blocks that lie in the row of its slot in the tables of steps."""
    digests: list[bytes] = field(default_factory=list)
    """Of the full blocks of `tokens`, as far as somebody asked."""
    cross_blocks: list[int] = field(default_factory=list)
    """Keys and values of its encoder's output."""
    is_encoded: bool = False
    """They are there once all batches in flight are done."""
    num_published: int = 0
    """Leading blocks that others may share."""
    is_placed: bool = False
    """Its tokens and parameters lie in its slot on every rank."""
    group: "BeamGroup | None" = None
    """Where it is one of several beams."""
    copies_slot: int = -1
    """Slot whose tokens it takes over in its next step."""
    copies_block: tuple[int, int] | None = None
    """(from, to): what its next step copies before it writes."""
    num_shared: int = 0
    """Tokens that were in the cache when it took its blocks."""
    prefix_len: int = 0
    """First tokens whose keys and values are loaded instead of computed."""
    embeddings: npt.NDArray[np.float32] | None = None
    """[rows, E] what the negative tokens of the prompt stand for, where they are computed."""
    salt: bytes = b""
    """Digest of what the prompt's negative tokens stand for: equal ids may mean something else."""
    wants_context: bool = False
    """The sum of the prompt's hidden states is asked for and not yet told."""
    context: npt.NDArray[np.float64] | float = 0.0
    """[H] that sum, as far as steps have added to it."""
    wants_context_logits: bool = False
    """The logits of the prompt's tokens are asked for and not yet told."""
    context_logits: list[bytes] = field(default_factory=list)
    """They, as far as steps have brought them."""
    memory_blocks: int = 0
    """How many blocks a token sees, its own included; 0 sees all."""
    keeps: bool = False
    """Its session goes on from its keys and values."""

    @property
    def key(self) -> SequenceKey:
        return self.client, self.request.id

    @property
    def session_key(self) -> SessionKey | None:
        session = self.request.session
        return None if session is None else (self.client, session.id)

    @property
    def root(self) -> bytes:
        """What its keys and values come from beside its tokens, such as how far back these see."""
        memory = f"memory {self.memory_blocks}".encode() if self.memory_blocks else b""
        return memory + self.salt

    @property
    def members(self) -> "list[Sequence]":
        """All sequences of its request: those that get and lose slots and blocks together."""
        return [self] if self.group is None else self.group.members

    @property
    def sampling(self) -> SamplingParams:
        return self.request.sampling

    def oldest_block(self, position: int, block_size: int) -> int:
        """The first block that the token at `position` sees."""
        return max(0, position // block_size - self.memory_blocks + 1) if self.memory_blocks else 0

    @property
    def prompt_len(self) -> int:
        return len(self.request.prompt)

    @property
    def encoder_len(self) -> int:
        return len(self.request.encoder_tokens)

    @property
    def computes_prompt(self) -> bool:
        """Whether all of its prompt must be computed, whatever lies in the cache."""
        return self.wants_context or self.wants_context_logits

    @property
    def num_to_compute(self) -> int:
        return len(self.tokens) + self.num_pending - self.num_computed

    @property
    def wants_tokens(self) -> bool:
        """Whether a step can do something for it, given that all batches in flight succeed."""
        length = len(self.tokens) + self.num_pending
        generated = length - len(self.request.prompt)
        return length > self.num_computed and generated < self.request.sampling.max_tokens

    def is_behind(self) -> bool:
        """Whether it has more to compute than its newest token."""
        return len(self.tokens) + self.num_pending - self.num_computed > 1

    def append(self, token: int, logprob: float, logits: bytes = b"") -> Output:
        """Takes a token that was sampled; what it adds to the output, the first one behind what is forced."""
        forced = self.request.forced_tokens
        is_first = bool(forced) and len(self.tokens) == self.prompt_len + len(forced)
        self.tokens.append(token)
        return self._output((*forced, token) if is_first else (token,), logprob, logits)

    def forced_output(self) -> Output | None:
        """All of the output, where what is forced upon it ends it."""
        tokens = self.request.forced_tokens
        reason = self.reason_to_stop() if tokens else None
        if reason is None:
            return None
        if self.sampling.beam_width > 1:
            beam = Beam(tokens, (0.0,) * len(tokens), 0.0)  # the only one: there is nothing else to find
            return Output(self.request.id, beams=(beam,), finish_reason=reason)
        return self._output(tokens, 0.0)

    def _output(self, tokens: tuple[int, ...], logprob: float, logits: bytes = b"") -> Output:
        """Of `tokens` the last one was sampled."""
        told = logprob if math.isfinite(logprob) else _LEAST_LOGPROB
        logprobs = (*(0.0 for _ in tokens[1:]), told) if self.sampling.logprobs else ()
        return Output(self.request.id, tokens, logprobs, self.reason_to_stop(), logits=logits)

    def with_context(self, output: Output) -> Output:
        """`output`, the first one with what is wanted of the prompt: its hidden states' sum, its logits."""
        if not self.computes_prompt:
            return output
        context = np.asarray(self.context, np.float32).tobytes() if self.wants_context else b""
        logits, self.context_logits = b"".join(self.context_logits), []
        self.wants_context = self.wants_context_logits = False
        return replace(output, context=context, context_logits=logits)

    def reason_to_stop(self) -> FinishReason | None:
        """Whether the newest known token ends the sequence, by contract: end id, stop word, length."""
        tokens, request = self.tokens, self.request
        sampling = request.sampling
        if tokens[-1] in self.end_ids or (sampling.stop_words and self._is_stop_word(tokens)):
            return FinishReason.STOP
        if len(tokens) - len(request.prompt) >= sampling.max_tokens:
            return FinishReason.LENGTH
        return None

    def would_stop(self, token: int) -> bool:
        """Whether `token` would end the sequence by an end id or a stop word."""
        if token in self.end_ids:
            return True
        longest = max(map(len, self.sampling.stop_words), default=0)
        return longest > 0 and self._is_stop_word([*self.tokens[-longest:], token])

    def was_placed(self) -> None:
        """A batch that brings what was missing in its slot and in its blocks is on its way."""
        self.is_placed, self.copies_slot, self.copies_block = True, -1, None
        self.is_encoded = True

    def vacate(self) -> None:
        """Forgets slot and blocks, which somebody has taken back."""
        self.blocks, self.num_tabled, self.slot, self.num_computed, self.num_published = [], 0, -1, 0, 0
        self.is_placed, self.copies_slot, self.copies_block = False, -1, None
        self.cross_blocks, self.is_encoded, self.context, self.context_logits = [], False, 0.0, []

    def _is_stop_word(self, tokens: List[int]) -> bool:
        return any(tuple(tokens[-len(word) :]) == word for word in self.sampling.stop_words)
