# SPDX-License-Identifier: BSD-3-Clause
"""The engine's end of the Unix socket: several clients, one thread, never blocked by a slow one."""

import logging
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from ..errors import EngineDead
from ..frames import FrameReader, FrameWriter
from ..messages import (
    ClientMessage,
    EngineInfo,
    EngineStats,
    Output,
    Outputs,
    Ready,
)

MAX_UNSENT_BYTES = 64 << 20
_MOST_PARTS = 1024
"""Linux sends no more of them at once."""
NEWS_S = 0.5
"""So old may be what a client knows of the engine while that works for others."""
STALLED_S = 10.0
"""A client that lets so much pile up and takes none of it for so long has stopped reading and is dropped."""
MOST_UNSENT_BYTES = 4 << 30
"""A client that lets so much pile up is dropped, however steadily it reads: four of the largest steps."""
ACCEPT_PAUSE_S = 1.0
"""For so long nobody is accepted after the machine had no descriptor or no memory for one more."""

_log = logging.getLogger(__name__)

Received = tuple[int, ClientMessage | None]
"""(client, message); None when the client is gone."""


class _Client:
    """One connection: what came in part, and what could not be sent yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.reader: FrameReader[ClientMessage] = FrameReader(ClientMessage)
        self.unsent: deque[memoryview] = deque()
        self.num_unsent = 0
        """Their bytes."""
        self.took = time.monotonic()
        """When the client last took something, or had taken everything."""
        self.told: EngineStats | None = None
        self.told_at = 0.0

    def queue(self, frame: Sequence[memoryview]) -> None:
        """Sends it behind what waits."""
        if not self.unsent:
            self.took = time.monotonic()
        self.unsent += frame
        self.num_unsent += sum(map(len, frame))

    def flush(self) -> int:
        """Sends what the socket takes without waiting; bytes that are left."""
        try:
            while self.unsent:
                self._took(self.connection.sendmsg(islice(self.unsent, _MOST_PARTS)))
        except BlockingIOError:
            pass  # the selector says when there is room again
        return self.num_unsent

    def _took(self, count: int) -> None:
        self.took = time.monotonic()
        self.num_unsent -= count
        while self.unsent and count >= len(self.unsent[0]):
            count -= len(self.unsent.popleft())
        if count:
            self.unsent[0] = self.unsent[0][count:]


class Channel:
    """Accepts clients on `path`.

    Args:
        first_client_seconds: bounds the wait for the first one.
        spin_seconds: for so long a wait asks again and again before it sleeps, which takes a core and saves
            the time to wake up.
    """

    def __init__(
        self, path: str, info: EngineInfo, first_client_seconds: float = 60.0, spin_seconds: float = 0.0
    ) -> None:
        self._path = path
        self._spin_seconds = spin_seconds
        self._writer = FrameWriter()
        self._ready = self._writer.frame(Ready(info, os.getpid()))
        self._first_client_seconds = first_client_seconds
        self._first_client_by = time.monotonic() + first_client_seconds
        self._accepts_from = 0.0
        """When a pause ends; 0 while there is none."""
        self._clients: dict[int, _Client] = {}
        self._num_accepted = 0
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(path)
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ)

    @property
    def is_open(self) -> bool:
        """False once every client that ever came has left."""
        return bool(self._clients) or self._num_accepted == 0

    def receive(self, patience: float | None) -> list[Received]:
        """Messages that arrived; waits `patience` seconds for the first one, without a number for ever.

        Raises:
            EngineDead: nobody connected in time.
        """
        received: list[Received] = []
        for key, events in self._select(self._bounded(patience)):
            if key.fileobj is self._listener:
                self._accept()
                continue
            client: int = key.data
            if events & selectors.EVENT_WRITE:
                self._flush(client)
            if events & selectors.EVENT_READ:
                received += self._read(client)
        self._accept_again()
        if self._num_accepted == 0 and time.monotonic() >= self._first_client_by:
            raise EngineDead(f"no client connected to {self._path} within {self._first_client_seconds:g} s")
        return received

    def send(self, outputs: Iterable[tuple[int, Output]], stats: EngineStats) -> None:
        """One message per client that has outputs; what a socket does not take now follows later.

        The others hear how the engine is from time to time, and at once that it has nothing to do.
        """
        by_client: dict[int, list[Output]] = {}
        for number, output in outputs:
            by_client.setdefault(number, []).append(output)
        now, is_idle = time.monotonic(), not (stats.num_running or stats.num_waiting)
        for number, client in self._clients.items():
            batch = by_client.get(number, [])
            has_news = stats != client.told and (is_idle or now - client.told_at > NEWS_S)
            if batch or has_news:
                client.told, client.told_at = stats, now
                client.queue(self._writer.frame(Outputs(batch, stats)))
                self._flush(number)

    def close(self) -> None:
        """Removes the socket file and ends every connection."""
        self._selector.close()
        self._listener.close()
        for client in self._clients.values():
            client.connection.close()
        Path(self._path).unlink(missing_ok=True)

    def _bounded(self, patience: float | None) -> float | None:
        """So long that what is to be done here by itself is done in time."""
        now = time.monotonic()
        bounds = [] if patience is None else [patience]
        bounds += [self._accepts_from - now] if self._accepts_from else []
        bounds += [] if self._num_accepted else [self._first_client_by - now]
        return max(0.0, min(bounds)) if bounds else None

    def _select(self, patience: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Who has something to read, or room for more."""
        spin = self._spin_seconds if patience is None else min(self._spin_seconds, patience)
        deadline = time.monotonic() + spin
        while time.monotonic() < deadline:
            if found := self._selector.select(0):
                return found
        return self._selector.select(None if patience is None else patience - spin)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return  # who came is gone
        except OSError as error:  # what is served already needs none of what is short
            _log.warning("a client waits, and is accepted later: %s", error)
            self._selector.unregister(self._listener)
            self._accepts_from = time.monotonic() + ACCEPT_PAUSE_S
            return
        connection.setblocking(False)
        client = self._num_accepted
        self._num_accepted += 1
        self._clients[client] = _Client(connection)
        self._selector.register(connection, selectors.EVENT_READ, client)
        self._clients[client].queue(self._ready)
        self._flush(client)

    def _accept_again(self) -> None:
        if self._accepts_from and time.monotonic() >= self._accepts_from:
            self._accepts_from = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _flush(self, client: int) -> None:
        connection = self._clients[client].connection
        try:
            unsent = self._clients[client].flush()
        except ConnectionError:
            unsent = 0  # the same end of file is read next, and there the client is dropped
        is_stalled = time.monotonic() - self._clients[client].took > STALLED_S
        if unsent > (MAX_UNSENT_BYTES if is_stalled else MOST_UNSENT_BYTES):
            _log.warning("client %d has not read %d bytes and is disconnected", client, unsent)
            connection.shutdown(socket.SHUT_RDWR)
            unsent = 0
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        if self._selector.get_key(connection).events != wanted:
            self._selector.modify(connection, wanted, client)

    def _read(self, client: int) -> list[Received]:
        try:
            count = self._clients[client].connection.recv_into(self._clients[client].reader.room())
            messages = self._clients[client].reader.advance(count)
        except BlockingIOError:
            return []
        except (ConnectionError, msgspec.MsgspecError) as error:
            _log.warning("client %d is disconnected: %s", client, error)
            count, messages = 0, []
        if not count:
            self._drop(client)
            return [(client, None)]
        return [(client, message) for message in messages]

    def _drop(self, client: int) -> None:
        connection = self._clients.pop(client).connection
        self._selector.unregister(connection)
        connection.close()
