# SPDX-License-Identifier: BSD-3-Clause
"""The thread that owns the requests in flight: it alone submits to the engine and sends responses.

Everything reaches it as an event through one queue. While it sends, steps of the engine pile up
there; a client then gets one response for all of them, so that a lagging sender never falls behind.
"""

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..errors import EngineDead, FasterTransformerError, InvalidRequest, Overloaded
from ..messages import EngineStats, FinishReason, Output, Outputs
from .call import Call, Reply, Row, is_finished
from .client import EngineClient
from .conversations import Begun, Conversations, Turn
from .metrics import Metrics

PATIENCE_S = 30.0
"""How long a request waits for an engine that restarts."""
_TICK_S = 0.5


class CancelledError(FasterTransformerError):
    """The client does not want the answer any more."""


@dataclass(slots=True, eq=False)
class Exchange:
    """A request in flight and the way back to its client."""

    call: Call
    reply: Reply
    id: str = ""
    """The client's own name for the request; empty when it gave none."""
    since: float = field(default_factory=time.monotonic)
    """Arrival, on the monotonic clock."""
    is_closed: bool = False
    """The last response was sent."""
    turn: Turn | None = None
    """Of a conversation."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that cannot be served."""

    reply: Reply
    error: Exception


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client of this exchange is gone or has lost interest."""

    exchange: Exchange


@dataclass(frozen=True, slots=True)
class Stopping:
    """A request whose only purpose is to end those with the same id, with what they have so far."""

    reply: Reply
    id: str


@dataclass(frozen=True, slots=True)
class Attached:
    """There is an engine (again)."""

    client: EngineClient


@dataclass(frozen=True, slots=True)
class Stop:
    """No event follows."""


Event = Turn | Exchange | Refused | Cancelled | Stopping | Attached | EngineDead | Outputs | Stop


class Responder:
    """Starts its thread at once; `stop` ends it.

    Args:
        conversations: of a model that takes turns.
    """

    def __init__(
        self, metrics: Metrics, log: Callable[[str], None], conversations: Conversations | None = None
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._conversations = conversations
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._client: EngineClient | None = None
        self._lines: dict[int, tuple[Exchange, Row]] = {}
        """Rows that still generate, by request id."""
        self._waiting: list[Exchange] = []
        """Not submitted yet: there is no engine."""
        self._thread = threading.Thread(target=self._run, name="responder", daemon=True)
        self._thread.start()

    def post(self, event: Event) -> None:
        """Never blocks."""
        self._events.put(event)

    def live(self) -> list[Exchange]:
        """The requests in flight; for other threads (to copy a dict is one step for Python)."""
        return list(dict.fromkeys(exchange for exchange, _ in self._lines.copy().values()))

    def stop(self) -> None:
        """Ends what is left with an error."""
        self.post(Stop())
        self._thread.join()

    def _run(self) -> None:
        events: list[Event] = []
        while not any(isinstance(event, Stop) for event in events):
            events = self._next_events()
            for exchange in dict.fromkeys(exchange for event in events for exchange in self._handle(event)):
                self._respond(exchange)
            self._expire()
        while live := self.live():  # for each that fails the next turn of its conversation begins
            self._fail_all(live, EngineDead("the model was unloaded"))

    def _next_events(self) -> list[Event]:
        """All that is there; waits for the first."""
        events: list[Event] = []
        with suppress(queue.Empty):
            events.append(self._events.get(timeout=_TICK_S))
            while True:
                events.append(self._events.get_nowait())
        return events

    def _handle(self, event: Event) -> list[Exchange]:
        """Takes one event in; returns the exchanges whose rows it changed."""
        match event:
            case Outputs():
                self._metrics.stats = event.stats
                return [exchange for output in event.outputs for exchange in self._update(output)]
            case Turn():
                assert self._conversations is not None
                self._begin(self._conversations.arrive(event))
            case Exchange():
                self._lines |= {row.request.id: (event, row) for row in event.call.rows}
                self._submit(event)
            case Refused():
                self._send_error(event.reply, event.error)
            case Cancelled():
                self._fail_all([event.exchange], CancelledError("the request was cancelled by its client"))
            case Stopping():
                return self._stop(event)
            case Attached():
                self._client = event.client
                waiting, self._waiting = self._waiting, []
                for exchange in waiting:
                    self._submit(exchange)
            case EngineDead():
                self._client = None
                self._metrics.stats = EngineStats()
                self._fail_all([exchange for exchange in self.live() if exchange not in self._waiting], event)
        return []

    def _stop(self, event: Stopping) -> list[Exchange]:
        """Ends the rows of the named exchanges where they are."""
        named = [exchange for exchange in self.live() if event.id and exchange.id == event.id]
        unfinished = [row for exchange in named for row in exchange.call.rows if row.finish_reason is None]
        for row in unfinished:
            row.finish_reason = FinishReason.ABORTED
        self._forget([row.request.id for row in unfinished])
        self._acknowledge(event.reply)
        return named

    def _update(self, output: Output) -> list[Exchange]:
        if output.id not in self._lines:  # the answer to an abort
            return []
        exchange, row = self._lines[output.id]
        if output.finish_reason is FinishReason.ERROR:
            kind = Overloaded if output.may_retry else InvalidRequest
            self._fail_all([exchange], kind(output.error))
            return []
        now = time.monotonic()
        if output.tokens or output.beams:
            self._metrics.observe(is_first=not (row.tokens or row.beams), seconds=now - row.since)
        row.update(output, now)
        if row.finish_reason is not None:
            del self._lines[output.id]
        return [exchange]

    def _submit(self, exchange: Exchange) -> None:
        if exchange.is_closed:
            return
        try:
            if self._client is not None:
                self._client.submit([row.request for row in exchange.call.rows])
                return
        except EngineDead:
            self._client = None
        except Exception as error:  # would end this thread, and leave every client without an answer
            self._log(traceback.format_exc())
            self._fail_all([exchange], error)
            return
        self._waiting.append(exchange)

    def _respond(self, exchange: Exchange) -> None:
        """Sends what is new; an error here is the error of this request alone."""
        if exchange.is_closed:
            return
        call = exchange.call
        try:
            self._forget(call.advance())
            is_last = is_finished(call)
            outputs = call.take_outputs() if is_last or (call.streams and call.has_news) else None
            if outputs is not None:
                exchange.reply.send(outputs, final=is_last)
            # Not before: outputs that cannot be computed or sent are an error that the client must get.
            exchange.is_closed = is_last
        except Exception as error:
            self._log(traceback.format_exc())
            self._fail_all([exchange], error)
        if exchange.is_closed:
            self._end_turn(exchange)

    def _fail_all(self, exchanges: Iterable[Exchange], error: Exception) -> None:
        for exchange in exchanges:
            if exchange.is_closed:
                continue
            exchange.is_closed = True
            self._forget([row.request.id for row in exchange.call.rows])
            self._send_error(exchange.reply, error)
            self._end_turn(exchange)

    def _end_turn(self, exchange: Exchange) -> None:
        """Lets the next turn of the conversation begin."""
        turn, exchange.turn = exchange.turn, None
        if turn is not None and self._conversations is not None:
            self._begin(self._conversations.close(turn, exchange.call))

    def _begin(self, turns: Iterable[Begun]) -> None:
        for turn, begun in turns:
            if isinstance(begun, Exception):
                if not isinstance(begun, FasterTransformerError):
                    self._log("".join(traceback.format_exception(begun)))
                self._handle(Refused(turn.reply, begun))
            else:
                self._handle(Exchange(begun, turn.reply, turn=turn))

    def _send_error(self, reply: Reply, error: Exception) -> None:
        try:
            reply.fail(error)
        except Exception:
            self._log(traceback.format_exc())

    def _acknowledge(self, reply: Reply) -> None:
        try:
            reply.send({}, final=True)
        except Exception:
            self._log(traceback.format_exc())

    def _forget(self, ids: Sequence[int]) -> None:
        """Ends rows early, also in the engine."""
        known = [request_id for request_id in ids if self._lines.pop(request_id, None)]
        if known and self._client is not None:
            with suppress(EngineDead):  # then they have ended, and the event that says so is on its way
                self._client.abort(known)

    def _expire(self) -> None:
        """Refuses what has waited for too long, and forgets what was cancelled while it waited."""
        late = time.monotonic() - PATIENCE_S
        expired = [exchange for exchange in self._waiting if exchange.since < late]
        self._fail_all(
            expired, EngineDead(f"the engine did not come back within {PATIENCE_S:g} s; try again")
        )
        self._waiting = [exchange for exchange in self._waiting if not exchange.is_closed]
        if self._conversations is not None:
            self._conversations.expire()
            ended = self._conversations.take_ended()
            if ended and self._client is not None:
                with suppress(EngineDead):
                    self._client.end_sessions(ended)
