# SPDX-License-Identifier: BSD-3-Clause
"""Packs inputs into steps in the order of their arrival, for models that encode and do not generate.

An input is computed whole, in one step, and holds nothing between steps: no slot, no cache. As many as
the token budget allows share a step, and as leave no more than MAX_RESULT_NUMBERS; a longer one has a step
of its own.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..config import EngineConfig
from ..messages import AnyRequest, EncodeRequest, EngineStats, FinishReason, Output, TokenIds, token_ids
from .batch import Int32Array, ia3_rows
from .encode_batch import EncodeBatch, EncodeResult
from .scheduler import ClientOutput

MAX_RESULT_NUMBERS = 1 << 28
"""float32, 1 GiB: logits of a vocabulary and maps of attention are many times larger than their inputs."""

_Key = tuple[int, int]
"""(client, the client's request id)"""
_Entry = tuple[int, EncodeRequest]
"""(client, request)"""


class EncodeScheduler:
    """Requests in, batches out, results back in. Changed by one thread of rank 0 alone.

    Args:
        result_size: how many numbers a request is answered with.
    """

    def __init__(self, config: EngineConfig, result_size: Callable[[EncodeRequest], int]) -> None:
        self._config = config
        self._result_size = result_size
        self._live: dict[_Key, EncodeRequest] = {}
        self._waiting: deque[_Entry] = deque()
        self._in_flight: deque[list[_Entry]] = deque()
        self._outbox: list[ClientOutput] = []

    @property
    def idle(self) -> bool:
        """Nothing to compute and nothing to tell."""
        return not (self._waiting or self._in_flight or self._outbox)

    @property
    def stats(self) -> EngineStats:
        running = sum(map(len, self._in_flight))
        return EngineStats(num_running=running, num_waiting=len(self._waiting))

    def add(self, client: int, request: AnyRequest) -> None:
        """Queues a checked request, or answers at once that it cannot be queued."""
        assert isinstance(request, EncodeRequest)
        if (client, request.id) in self._live:
            self.reject(client, request, f"request id {request.id} is already in use on this connection")
        elif len(self._waiting) >= self._config.max_queue_size:
            self.reject(client, request, f"the queue is full: {len(self._waiting)} requests wait; try again")
        elif (size := self._result_size(request)) > MAX_RESULT_NUMBERS:
            wanted = f"{', '.join(request.outputs)} of {request.num_tokens} tokens are {size} numbers"
            error = f"{wanted}; allowed are {MAX_RESULT_NUMBERS} for one input"
            self.reject(client, request, error, may_retry=False)
        else:
            self._live[client, request.id] = request
            self._waiting.append((client, request))

    def reject(self, client: int, request: AnyRequest, error: str, may_retry: bool = True) -> None:
        """Answers a request that is never computed."""
        output = Output(request.id, finish_reason=FinishReason.ERROR, error=error, may_retry=may_retry)
        self._tell(client, output)

    def abort(self, client: int, request_ids: Iterable[int]) -> None:
        """Ends requests; unknown ids have ended already."""
        for request_id in request_ids:
            if self._live.pop((client, request_id), None) is not None:
                self._tell(client, Output(request_id, finish_reason=FinishReason.ABORTED))
        self._forget_ended()

    def drop_client(self, client: int) -> None:
        """Ends all requests of a client that is gone."""
        for key in [key for key in self._live if key[0] == client]:
            del self._live[key]
        self._forget_ended()

    def end_sessions(self, client: int, session_ids: Iterable[int]) -> None:
        """There are none."""

    @property
    def patience(self) -> None:
        """Nothing is kept that could expire."""

    def expire(self, now: float) -> None:
        """Nothing."""

    def schedule(self) -> EncodeBatch | None:
        """The next step, or None when nothing waits."""
        entries = self._take()
        if not entries:
            return None
        self._in_flight.append(entries)
        return build_batch([request for _, request in entries])

    def update(self, result: EncodeResult) -> None:
        """Takes in what the oldest batch in flight computed; nobody hears of what was ended meanwhile."""
        for (client, request), arrays in zip(self._in_flight.popleft(), result.arrays, strict=True):
            if self._is_live(client, request):
                del self._live[client, request.id]
                self._tell(client, Output(request.id, finish_reason=FinishReason.ENCODED, arrays=arrays))

    def take_outputs(self) -> list[ClientOutput]:
        """What happened since the last call, in order."""
        outputs, self._outbox = self._outbox, []
        return outputs

    def _take(self) -> list[_Entry]:
        """The requests of one step: all have tokens, or all have hidden states."""
        taken: list[_Entry] = []
        tokens, numbers = self._config.max_num_batched_tokens, MAX_RESULT_NUMBERS
        while self._waiting and len(taken) < self._config.max_num_seqs:
            _, request = self._waiting[0]
            tokens, numbers = tokens - request.num_tokens, numbers - self._result_size(request)
            if taken and (min(tokens, numbers) < 0 or _is_embedded(request) != _is_embedded(taken[0][1])):
                break
            taken.append(self._waiting.popleft())
        return taken

    def _is_live(self, client: int, request: EncodeRequest) -> bool:
        """Not ended, nor ended and followed by another one of the same id."""
        return self._live.get((client, request.id)) is request

    def _forget_ended(self) -> None:
        self._waiting = deque(entry for entry in self._waiting if self._is_live(*entry))

    def _tell(self, client: int, output: Output) -> None:
        self._outbox.append((client, output))


def _is_embedded(request: EncodeRequest) -> bool:
    return request.hidden_states is not None


def build_batch(requests: Sequence[EncodeRequest]) -> EncodeBatch:
    """The step plan of requests that all have tokens, or all have hidden states."""
    embedded = [request.hidden_states for request in requests if request.hidden_states is not None]
    assert len(embedded) in (0, len(requests))
    return EncodeBatch(
        lengths=np.array([request.num_tokens for request in requests], np.int32),
        outputs=tuple(request.outputs for request in requests),
        tokens=None if embedded else _joined([request.tokens for request in requests]),
        token_types=_token_types(requests),
        hidden_states=np.concatenate(embedded) if embedded else None,
        ia3_rows=ia3_rows(requests),
    )


def _token_types(requests: Sequence[EncodeRequest]) -> Int32Array | None:
    if not any(request.token_types for request in requests):
        return None
    return _joined([request.token_types or token_ids((0,)) * request.num_tokens for request in requests])


def _joined(rows: Sequence[TokenIds]) -> Int32Array:
    """All ids one behind the other; joined as bytes, since numpy takes microseconds for each row."""
    return np.frombuffer(b"".join(rows), np.int64).astype(np.int32)
