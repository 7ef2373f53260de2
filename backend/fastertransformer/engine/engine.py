# SPDX-License-Identifier: BSD-3-Clause
"""The loop of rank 0: receive, schedule, broadcast, execute, tell. Its neighbours are Protocols."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from ..errors import InvalidRequest
from ..messages import (
    Abort,
    AnyRequest,
    ClientMessage,
    EndSessions,
    EngineInfo,
    EngineStats,
    Output,
    Submit,
)
from ..validation import check
from .batch import Batch
from .channel import Received
from .encode_batch import EncodeBatch

Plan = Batch | EncodeBatch
"""One step."""


class Pending(Protocol):
    """A step that was enqueued."""

    def result(self) -> Any:
        """Waits for the step; the only place where the host waits for the device."""
        ...


class Runner(Protocol):
    """Executes the plans of one kind of scheduler in order."""

    def execute(self, batch: Any) -> Pending: ...


class Scheduling(Protocol):
    """Requests in, plans out, results back in. `scheduler` has it for generating, `encode_scheduler` for
    encoding."""

    @property
    def idle(self) -> bool: ...

    @property
    def stats(self) -> EngineStats: ...

    def add(self, client: int, request: AnyRequest) -> None: ...

    def reject(self, client: int, request: AnyRequest, error: str, may_retry: bool = True) -> None: ...

    def abort(self, client: int, request_ids: Iterable[int]) -> None: ...

    def end_sessions(self, client: int, session_ids: Iterable[int]) -> None: ...

    def drop_client(self, client: int) -> None: ...

    @property
    def patience(self) -> float | None:
        """Seconds until the next `expire` has something to do; None when there is nothing."""
        ...

    def expire(self, now: float) -> None: ...

    def schedule(self) -> Plan | None: ...

    def update(self, result: Any) -> None:
        """What the oldest plan that was executed came to."""
        ...

    def take_outputs(self) -> Iterable[tuple[int, Output]]: ...


class Clients(Protocol):
    """Who sends requests and takes outputs; engine.channel has them on a socket."""

    @property
    def is_open(self) -> bool:
        """False once the last one has left."""
        ...

    def receive(self, patience: float | None) -> list[Received]:
        """Messages that arrived; waits `patience` seconds for the first one, without a number for ever."""
        ...

    def send(self, outputs: Iterable[tuple[int, Output]], stats: EngineStats) -> None:
        """What a step added, to whom it belongs."""
        ...


class Control(Protocol):
    """How rank 0 tells the other ranks what to execute."""

    def broadcast(self, batch: Plan | None) -> Plan | None:
        """Sends from rank 0, receives elsewhere; None ends the loop."""
        ...


class Engine:
    """Serves the clients of `channel` until the last one is gone."""

    def __init__(
        self,
        info: EngineInfo,
        channel: Clients,
        scheduler: Scheduling,
        control: Control,
        runner: Runner,
        depth: int,
    ) -> None:
        self._info = info
        self._channel = channel
        self._scheduler = scheduler
        self._control = control
        self._runner = runner
        self._depth = depth

    def serve(self) -> None:
        """`depth` steps stay in flight while the next one is prepared."""
        in_flight: deque[Pending] = deque()
        while self._receive():
            batch = self._scheduler.schedule()
            if batch is not None:
                self._control.broadcast(batch)
                in_flight.append(self._runner.execute(batch))
            if in_flight and (batch is None or len(in_flight) > self._depth):
                self._scheduler.update(in_flight.popleft().result())
            self._channel.send(self._scheduler.take_outputs(), self._scheduler.stats)
        for pending in in_flight:
            pending.result()
        self._control.broadcast(None)

    def _receive(self) -> bool:
        """Takes in what the clients sent; False once the last one has left."""
        patience = self._scheduler.patience if self._scheduler.idle else 0
        for client, message in self._channel.receive(patience):
            if message is None:
                self._scheduler.drop_client(client)
            else:
                self._take(client, message)
        self._scheduler.expire(time.monotonic())
        return self._channel.is_open

    def _take(self, client: int, message: ClientMessage) -> None:
        match message:
            case Submit(requests):
                for request in requests:
                    try:
                        check(request, self._info)
                    except InvalidRequest as error:
                        self._scheduler.reject(client, request, str(error), may_retry=False)
                    else:
                        self._scheduler.add(client, request)
            case Abort(request_ids):
                self._scheduler.abort(client, request_ids)
            case EndSessions(session_ids):
                self._scheduler.end_sessions(client, session_ids)


def follow(control: Control, runner: Runner) -> None:
    """The loop of every other rank."""
    while (batch := control.broadcast(None)) is not None:
        runner.execute(batch)
