# SPDX-License-Identifier: BSD-3-Clause
"""One engine per server, configuration and GPU group: the first user starts it, the others attach."""

import collections
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..config import EngineConfig
from ..errors import EngineDead, ModelLoadError
from . import processes, rundir
from .client import EngineClient, connect
from .command import engine_command, engine_environment, interpreter, started_by_mpirun
from .placement import Placement
from .rundir import RuntimeDirectory

DEFAULT_START_TIMEOUT_S = 600.0
_ERROR_MARK = "fastertransformer: ModelLoadError: "
_KEPT_LINES = 20
_LEAVE_TIMEOUT_S = 5.0


class Launcher:
    """Starts, attaches to and leaves the engine of one configuration and GPU group.

    Args:
        server_pid: the process that the engine must not outlive; it also bounds the sharing.
        log: takes every line that the engine prints; the default drops it.
        start_timeout: seconds from the start to a loaded model.
    """

    def __init__(
        self,
        config: EngineConfig,
        placement: Placement | None = None,
        server_pid: int | None = None,
        log: Callable[[str], object] = str,
        start_timeout: float = DEFAULT_START_TIMEOUT_S,
    ) -> None:
        self._config = config
        self._placement = placement or Placement()
        self._server_pid = server_pid or os.getpid()
        self._log = log
        self._start_timeout = start_timeout
        self._directory = RuntimeDirectory(self._server_pid, config, self._placement)
        self._user_file: int | None = None
        self._given_up = threading.Event()
        self._connection: socket.socket | None = None
        """On which a greeting is awaited."""

    def attach(self) -> EngineClient:
        """A connection to the running engine; starts one when there is none.

        Raises:
            ModelLoadError: the engine did not start; its own words are in the text.
            OSError: the machine has no process or no file for it.
        """
        rundir.sweep()
        newcomer = self._user_file is None
        try:
            return self._attach()
        except (ModelLoadError, OSError):
            if newcomer and self._user_file is not None:
                self.detach(None)
            raise

    def give_up(self) -> None:
        """Makes an `attach` in another thread fail soon."""
        self._given_up.set()
        if connection := self._connection:
            with suppress(OSError):  # it may have ended just now
                connection.shutdown(socket.SHUT_RDWR)

    def detach(self, client: EngineClient | None) -> None:
        """Closes the connection; the last one to leave waits until the engine's processes are gone."""
        if client is not None:
            client.close()
        with self._directory.locked(self._start_timeout):
            self._leave()

    def _leave(self) -> None:
        if self._user_file is not None and self._directory.last_one_out(self._user_file):
            self._directory.stop_engine(grace=_LEAVE_TIMEOUT_S)
            self._directory.remove()
        self._user_file = None

    def _attach(self) -> EngineClient:
        silent: set[int | None] = set()
        """Guards of engines that took the connection and then said nothing."""
        while True:
            with self._directory.locked(self._start_timeout, self._given_up):
                if self._user_file is None:
                    self._user_file = self._directory.attach()
                guard = self._directory.guard
                connection = None if guard in silent else self._connect()
                if connection is None:
                    return self._start()
            # Without the lock, which others need to leave: a long step of a busy engine delays its greeting.
            if client := self._greeted(connection):
                return client
            if self._given_up.is_set():
                raise ModelLoadError("the model was unloaded while it waited for its engine")
            silent.add(guard)

    def _connect(self) -> socket.socket | None:
        try:
            return connect(self._directory.socket)
        except EngineDead:
            return None

    def _greeted(self, connection: socket.socket) -> EngineClient | None:
        """Patience here, or a busy engine would be taken for dead."""
        self._connection = connection
        timeout = 0.01 if self._given_up.is_set() else self._start_timeout
        try:
            return EngineClient(self._directory.socket, timeout, connection)
        except EngineDead:
            return None
        finally:
            self._connection = None

    def _start(self) -> EngineClient:
        self._directory.stop_engine()  # one that hangs, or that still loads for a starter that was killed
        self._directory.empty()
        guard = self._spawn()
        self._directory.write_guard(guard.pid)
        output = _Output(guard, self._log)
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline and guard.poll() is None and not self._given_up.wait(0.02):
            if (connection := self._connect()) and (client := self._greeted(connection)):
                return client
        late = guard.poll() is None
        self._directory.stop_engine()
        raise ModelLoadError(
            f"the model was not loaded within {self._start_timeout:g} s" if late else output.explain()
        )

    def _spawn(self) -> subprocess.Popen[str]:
        command = engine_command(self._config, self._placement, self._directory.socket)
        reset_affinity = str(int(started_by_mpirun(os.environ)))
        guard = [interpreter(), "-m", "fastertransformer.server.guard", str(self._server_pid)]
        # Other hosts have no such directory.
        memory = None if self._config.parallel.hostfile else self._directory.memory
        return subprocess.Popen(
            [*guard, str(self._directory.path), reset_affinity, *command],
            env=engine_environment(os.environ, self._placement, self._directory.temporary, memory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C for the server must not reach the engine first
        )


def _ending(code: int | None) -> str:
    """Args: code: of the guard, or of an mpirun that it passes on."""
    number = 0 if code is None else -code if code < 0 else code - processes.SIGNALLED
    if number not in signal.valid_signals():
        return f"process ended with code {code}"
    hint = "; the kernel does that where memory is short" if number == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(number).name}{hint}"


class _Output:
    """Passes on what the engine prints and keeps the end of it for an error message."""

    def __init__(self, process: subprocess.Popen[str], log: Callable[[str], object]) -> None:
        self._process = process
        self._log = log
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._thread = threading.Thread(target=self._read, name="engine-output", daemon=True)
        self._thread.start()

    def explain(self) -> str:
        """The engine's own ModelLoadError, else the last lines that it printed."""
        self._thread.join(_LEAVE_TIMEOUT_S)
        for line in reversed(self._lines):
            if _ERROR_MARK in line:
                return line.partition(_ERROR_MARK)[2]
        return "\n".join([f"the engine {_ending(self._process.poll())}", *self._lines])

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line.rstrip("\n"))
                self._log(line.rstrip("\n"))
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_TIMEOUT_S)
