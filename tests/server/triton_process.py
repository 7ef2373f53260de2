# SPDX-License-Identifier: BSD-3-Clause
"""A real tritonserver for tests: its backend folder, its ports, its log."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fastertransformer.cli.tritonserver import START_ABORT
from fastertransformer.messages import EngineStats, Request, SamplingParams, token_ids
from fastertransformer.server import processes
from fastertransformer.server.client import EngineClient

BACKEND = Path(__file__).resolve().parents[2] / "backend"
STUB = "triton_python_backend_stub"
START_TIMEOUT_S = 200
STOP_TIMEOUT_S = 60


def bundled_server() -> Path:
    """Folder of the server in the nvidia-pytriton wheel."""
    folder = Path(sysconfig.get_path("purelib"), "pytriton", "tritonserver")
    if not (folder / "bin" / "tritonserver").exists():
        pytest.skip("no tritonserver: pip install nvidia-pytriton")
    return folder


def write_backends(target: Path) -> Path:
    """A backend directory with `python` and `fastertransformer`."""
    server = bundled_server()
    python = target / "python"
    shutil.copytree(server / "backends" / "python", python, ignore=shutil.ignore_patterns("__pycache__"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / STUB
    shutil.copy(stub, python / stub.name)
    (target / "fastertransformer").symlink_to(BACKEND)
    return target


def free_ports(count: int) -> list[int]:
    """Chosen at random below those that the kernel gives to clients: no other test takes one meanwhile.

    Tests that run at the same time have ports of different remainders.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    num_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports: set[int] = set()
    while len(ports) < count:
        port = random.SystemRandom().randrange(10000 + worker, 32000, num_workers)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return list(ports)


class TritonServer:
    """A tritonserver that is ready.

    Args:
        folder: for its files; also its TMPDIR, so that whatever is left in there is a leak.
        launcher: a command that starts it.
    """

    def __init__(
        self, folder: Path, repository: Path, arguments: Sequence[str] = (), launcher: Sequence[str] = ()
    ) -> None:
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        # Sockets must have short paths, pytest's folders have long ones.
        self.temporary = Path(tempfile.mkdtemp(prefix="ft"))
        self.folder = folder
        self._log_path = folder / "server.log"
        command = [
            *launcher,
            str(bundled_server() / "bin" / "tritonserver"),
            f"--backend-directory={write_backends(folder / 'backends')}",
            f"--model-repository={repository}",
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            "--exit-timeout-secs=20",
            *arguments,
        ]
        self._start(command)
        try:
            if not self._becomes_ready() and START_ABORT in self.log:
                self._start(command)
                self._becomes_ready()
            assert self.is_ready(), f"tritonserver, exit code {self.process.poll()}:\n{self.log[-8000:]}"
        except BaseException:
            self.stop()
            raise

    def _start(self, command: list[str]) -> None:
        environment = _environment() | {"TMPDIR": str(self.temporary)}
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def stop(self) -> None:
        """As Ctrl-C would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def engine_processes(self) -> list[int]:
        """Guards, mpiruns and ranks: all have the path of their socket on the command line."""
        return [pid for pid in _live() if f"{self.temporary}/" in processes.command_line(pid)]

    def ranks(self) -> list[int]:
        """Engine ranks in the order of their start."""
        lines = {pid: processes.command_line(pid) for pid in self.engine_processes()}
        return sorted(
            pid for pid, line in lines.items() if line.split()[1:3] == ["-m", "fastertransformer.worker"]
        )

    def all_processes(self) -> list[int]:
        """Server, stubs and engines, whoever their parents are: their TMPDIR is the server's, or in it."""
        folders = {pid: environment_of(pid).get("TMPDIR", "") for pid in _live()}
        return [pid for pid, folder in folders.items() if f"{folder}/".startswith(f"{self.temporary}/")]

    def stubs(self, model: str = "") -> list[int]:
        """Processes of Triton's that run backend/model.py; their arguments name the instance."""
        lines = {pid: processes.command_line(pid) for pid in self.all_processes()}
        return [pid for pid, line in lines.items() if STUB in line and (not model or f" {model}_0" in line)]

    def sockets(self) -> list[Path]:
        return list(self.temporary.glob("*/*/engine.sock"))

    def observe(self, model_type: str) -> EngineStats:
        """State of one of its engines."""
        stats = next(self.observe_all(model_type), None)
        assert stats is not None, f"no engine serves {model_type}"
        return stats

    def observe_all(self, model_type: str) -> Iterator[EngineStats]:
        """State of all engines that serve it, each seen by a client of its socket."""
        for path in self.sockets():
            client = EngineClient(path, START_TIMEOUT_S)
            try:
                if client.info.model_type == model_type:
                    client.submit([Request(0, token_ids((5,)), SamplingParams(max_tokens=1))])
                    yield next(message.stats for message in client.outputs())
            finally:
                client.close()

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    def metrics(self) -> str:
        return fetch(f"http://127.0.0.1:{self.metrics_port}/metrics")

    def is_ready(self) -> bool:
        try:
            return fetch(f"http://{self.http}/v2/health/ready") == ""
        except OSError:
            return False

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.is_ready():
                return True
            time.sleep(0.1)
        return False


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Processes that do nothing for a while."""
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def environment_of(pid: int) -> dict[str, str]:
    """With which a process was started; empty when it is gone."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


def memory_of(pids: Iterable[int]) -> int:
    """Bytes that processes hold; what several of them share counts once, in equal parts."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total << 10


def _live() -> list[int]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if processes.is_alive(pid)]


def fetch(url: str) -> str:
    """Raises: OSError."""
    with urllib.request.urlopen(url, timeout=60) as response:
        return str(response.read().decode())


def _environment() -> dict[str, str]:
    libraries = [
        Path(sysconfig.get_path("purelib"), "nvidia_pytriton.libs"),
        sysconfig.get_config_var("LIBDIR"),
    ]
    inherited = os.environ.get("LD_LIBRARY_PATH", "")
    binaries = Path(sys.executable).parent
    return {
        **os.environ,
        # The stub takes the Python that it finds on PATH.
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(Path(sys.prefix)),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [*map(str, libraries), inherited])),
    }
