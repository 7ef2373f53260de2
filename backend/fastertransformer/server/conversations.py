# SPDX-License-Identifier: BSD-3-Clause
"""Triton's sequences as conversations: what was said so far, and one turn after the other.

The tokens are remembered here, in the stub; the engine only keeps keys and values while it has room. So a
conversation goes on even after its engine was restarted. The responder's thread owns everything here.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import InvalidRequest
from ..messages import EngineInfo
from .call import Call, Reply, is_finished
from .protocol import Array

ConversationId = int | str
"""Triton's correlation id."""


@dataclass(slots=True)
class Conversation:
    """B rows that go on together."""

    session_ids: Sequence[int]
    """What the engine calls the rows."""
    limit: int
    """Tokens that a row may come to."""
    memory_len: int
    """How many tokens back a token sees; 0: all."""
    tokens: list[tuple[int, ...]]
    """Of every row: prompts and answers so far."""
    num_hidden: list[int]
    """First tokens of every row that the client neither sent nor sees: a start id before an empty prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One request of a conversation."""

    id: ConversationId
    starts: bool
    ends: bool
    tensors: Mapping[str, Array]
    info: EngineInfo
    reply: Reply
    since: float = field(default_factory=time.monotonic)
    """Arrival."""


Begun = tuple[Turn, Call | Exception]
"""A turn, and its call or why it has none."""


class TurnContract(Protocol):
    """Makes calls of turns."""

    def start(self, turn: Turn) -> Conversation:
        """A conversation in which nothing was said. Raises: InvalidRequest."""
        ...

    def open(self, turn: Turn, conversation: Conversation) -> Call:
        """Raises: InvalidRequest: also where the conversation would become too long."""
        ...


@dataclass(slots=True)
class _Line:
    """One conversation and the turns that wait for the one that is being answered."""

    turns: deque[Turn] = field(default_factory=deque)
    conversation: Conversation | None = None
    is_busy: bool = False
    since: float = 0.0
    """Arrival of the newest turn that began."""


class Conversations:
    """All conversations of a model instance.

    Args:
        idle_seconds: after this time without a request Triton lets nobody continue a sequence.
    """

    def __init__(self, contract: TurnContract, idle_seconds: float) -> None:
        self._contract = contract
        self._idle_seconds = idle_seconds
        self._ended: list[int] = []
        self._lines: dict[ConversationId, _Line] = {}

    def arrive(self, turn: Turn) -> list[Begun]:
        """Takes a turn in; returns what begins or fails by that."""
        self._lines.setdefault(turn.id, _Line()).turns.append(turn)
        return self._advance(turn.id)

    def close(self, turn: Turn, call: Call) -> list[Begun]:
        """Takes in what was said, which is nothing if it failed; returns what begins or fails by that."""
        line = self._lines[turn.id]
        assert line.conversation is not None
        line.is_busy = False
        if is_finished(call):
            line.conversation.tokens = [(*row.request.prompt, *row.tokens) for row in call.rows]
        if turn.ends or (turn.starts and not is_finished(call)):
            self._end(line)
        return self._advance(turn.id)

    def expire(self) -> None:
        """Forgets the conversations that Triton lets nobody continue."""
        now = time.monotonic()
        for key, line in list(self._lines.items()):
            if not line.is_busy and now - line.since >= self._idle_seconds:
                self._end(line)
                del self._lines[key]

    def take_ended(self) -> list[int]:
        """Sessions for which the engine need not keep anything any more, since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def _advance(self, key: ConversationId) -> list[Begun]:
        line = self._lines[key]
        begun: list[Begun] = []
        while line.turns and not line.is_busy:
            turn = line.turns.popleft()
            begun.append((turn, self._begin(line, turn)))
        if line.conversation is None and not line.is_busy:
            del self._lines[key]
        return begun

    def _begin(self, line: _Line, turn: Turn) -> Call | Exception:
        try:
            conversation = self._conversation(line, turn)
            call = self._contract.open(turn, conversation)
        except Exception as error:  # is the answer to this turn
            if turn.ends:  # Triton lets nobody continue it, so it has ended all the same
                self._end(line)
            return error
        line.conversation, line.is_busy, line.since = conversation, True, turn.since
        return call

    def _conversation(self, line: _Line, turn: Turn) -> Conversation:
        if turn.starts and line.conversation is not None:
            if turn.since - line.since < self._idle_seconds:
                raise InvalidRequest(
                    f"sequence {turn.id} was started twice: before another START its last one must set END,"
                    f" or {self._idle_seconds:g} s must pass without a request"
                )
            self._end(line)
        if turn.starts:
            return self._contract.start(turn)
        if line.conversation is None:
            raise InvalidRequest(
                f"sequence {turn.id} is not known: its first request must set START and not fail"
            )
        return line.conversation

    def _end(self, line: _Line) -> None:
        if line.conversation is not None:
            self._ended += line.conversation.session_ids
            line.conversation = None
