# SPDX-License-Identifier: BSD-3-Clause
"""One connection to an engine process."""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from ..config import ENCODED_TOKENS
from ..errors import EngineDead
from ..frames import FrameReader, FrameWriter
from ..messages import (
    Abort,
    AnyRequest,
    ClientMessage,
    EncodeRequest,
    EndSessions,
    EngineInfo,
    EngineMessage,
    Outputs,
    Ready,
    Submit,
)

SEND_TIMEOUT_S = 30
"""An engine that reads nothing for so long is taken for dead."""


CONNECT_TIMEOUT_S = 10.0
"""An engine that is busy takes a connection at once; only what it says comes late."""


def connect(path: Path) -> socket.socket:
    """A connection on which an engine has said nothing yet. Raises: EngineDead: nothing listens at `path`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise EngineDead(f"no engine answers at {path}: {error}") from None
    return connection


class EngineClient:
    """Sends requests from any thread; one thread reads `outputs`.

    Args:
        connection: from `connect`, where somebody else shall be able to end the wait.

    Raises:
        EngineDead: nothing listens at `path`, or it did not say Ready within `timeout` seconds.
    """

    info: EngineInfo
    pid: int

    def __init__(self, path: Path, timeout: float = 10.0, connection: socket.socket | None = None) -> None:
        self._reader: FrameReader[EngineMessage] = FrameReader(EngineMessage)
        self._writer = FrameWriter()
        self._send_lock = threading.Lock()
        self._early: list[Outputs] = []
        self._socket = connection or connect(path)
        self._socket.settimeout(timeout)
        try:
            self._greet(self._receive())
        except (OSError, EngineDead) as error:
            self._socket.close()
            raise EngineDead(f"no engine answers at {path}: {error}") from None
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))

    def submit(self, requests: Sequence[AnyRequest]) -> None:
        """In one frame or, of many inputs to encode, several. Raises: EngineDead."""
        for part in _parts(requests):
            self._send(Submit(part))

    def abort(self, request_ids: Sequence[int]) -> None:
        """Ends requests early; ids that already ended are ignored. Raises: EngineDead."""
        self._send(Abort(list(request_ids)))

    def end_sessions(self, session_ids: Sequence[int]) -> None:
        """Gives back what they keep in the engine. Raises: EngineDead."""
        self._send(EndSessions(list(session_ids)))

    def outputs(self) -> Iterator[Outputs]:
        """Blocks for the engine's steps.

        Raises:
            EngineDead: the engine ended, or this client was closed.
        """
        yield from self._early
        while True:
            for message in self._receive():
                assert isinstance(message, Outputs), message
                yield message

    def close(self) -> None:
        """Ends the connection, and with it what its requests still had to generate."""
        with suppress(OSError):  # the engine may have closed it first
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread in `outputs`, close alone does not
        self._socket.close()

    def _greet(self, messages: list[EngineMessage]) -> None:
        ready, *early = messages
        assert isinstance(ready, Ready), ready
        self.info, self.pid = ready.info, ready.pid
        self._early = [message for message in early if isinstance(message, Outputs)]

    def _send(self, message: ClientMessage) -> None:
        try:
            with self._send_lock:
                for part in self._writer.frame(message):
                    self._socket.sendall(part)
        except OSError as error:
            self.close()  # half a frame may have gone out: the connection is of no more use
            raise EngineDead(f"the engine process does not take requests: {error}") from None

    def _receive(self) -> list[EngineMessage]:
        messages: list[EngineMessage] = []
        while not messages:
            try:
                count = self._socket.recv_into(self._reader.room())
            except TimeoutError:
                raise EngineDead("it said nothing in time") from None
            except OSError as error:
                raise EngineDead(f"the connection to the engine process broke: {error}") from None
            if not count:
                raise EngineDead("the engine process ended")
            try:
                messages = self._reader.advance(count)
            except msgspec.MsgspecError as error:
                raise EngineDead(f"the engine process sent what is no message: {error}") from None
        return messages


def _parts(requests: Sequence[AnyRequest]) -> Iterator[Sequence[AnyRequest]]:
    """The requests in their order, as they travel together.

    Of inputs to encode these are what a GPU computes in a step: the engine begins with the first ones while
    it reads the others. Prompts all go together, since each is a part of many steps.
    """
    begin, num_tokens = 0, 0
    for position, request in enumerate(requests):
        length = request.num_tokens if isinstance(request, EncodeRequest) else 0
        if num_tokens + length > ENCODED_TOKENS and position > begin:
            yield requests[begin:position]
            begin, num_tokens = position, 0
        num_tokens += length
    yield requests[begin:]
