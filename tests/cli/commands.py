# SPDX-License-Identifier: BSD-3-Clause
"""The command `fastertransformer` as a user runs it: in a process of its own, ended by signals."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from triton_process import free_ports

from fastertransformer.cli.main import main
from fastertransformer.server import processes

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fastertransformer.models", "fastertransformer.cli.bench.command"])
"""Processes that have imported already what most commands would spend their time on."""

PROGRAM = [sys.executable, "-c", "from fastertransformer.cli.main import main; main()"]
START_TIMEOUT_S = 200
STOP_TIMEOUT_S = 120
SMALL_CACHE = "max_tokens_in_paged_kv_cache=8192"


def run(*arguments: object, timeout: float = 200, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Runs it to its end; wide, so that nothing it prints is wrapped."""
    command = [*map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("stdout", "stderr")]
        process = FORKS.Process(target=_run, args=(command, printed, {"COLUMNS": "200", **variables}))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, process.exitcode, *(path.read_text() for path in printed))


def _run(command: list[str], printed: list[Path], variables: Mapping[str, str]) -> None:
    for descriptor, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(variables)
    sys.argv = ["fastertransformer", *command]
    main()


class Serving:
    """A `fastertransformer serve` on ports of its own, with a temporary directory where leaks would lie."""

    def __init__(self, *arguments: object, **variables: str) -> None:
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.temporary = Path(tempfile.mkdtemp(prefix="ft"))  # sockets must have short paths
        ports = [
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
        ]
        self._printed = self.temporary / "printed"
        with self._printed.open("wb") as printed:
            self.process = subprocess.Popen(
                [*PROGRAM, "serve", *map(str, arguments), *ports],
                env={**os.environ, "COLUMNS": "200", "TMPDIR": str(self.temporary), **variables},
                stdout=printed,
                stderr=printed,
            )

    @property
    def printed(self) -> str:
        return self._printed.read_text()

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    def wait_until_printed(self, text: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while text not in self.printed:
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.05)

    def descendants(self) -> list[int]:
        """Server, stubs, guard and ranks."""
        found = [self.process.pid]
        for pid in found:
            found += processes.children(pid)
        return found[1:]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """The exit code, after what Ctrl-C sends."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def left(self) -> list[Path]:
        """What it should have removed."""
        return [path for path in self.temporary.iterdir() if path != self._printed and any(path.iterdir())]


@contextmanager
def serving(*arguments: object, ready: bool = True, **variables: str) -> Iterator[Serving]:
    """Stopped when the test has not done so. Args: ready: wait until it serves."""
    server = Serving(*arguments, **variables)
    try:
        if ready:
            server.wait_until_printed("Ctrl-C ends it")
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def wait_until_gone(pids: list[int], seconds: float = 60) -> list[int]:
    """Those that are still alive then."""
    deadline = time.monotonic() + seconds
    while (alive := [pid for pid in pids if processes.is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive
