# SPDX-License-Identifier: BSD-3-Clause
"""Finds a tritonserver, gives it our backend, starts it, waits for it and stops it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import FasterTransformerError
from .installation import backend_folder

STOP_TIMEOUT_S = 40.0
START_ABORT = "boost::interprocess::lock_exception"
"""What servers die of at times while stubs of models start (triton-inference-server/server, issue 8882)."""
_MOST_STARTS = 3
_POLL_S = 0.1
_STUBS_TIMEOUT_S = 3.0
_LOAD_ERROR = re.compile(r"(?:ModelLoad|Import)Error: (.*?)\\n\\nAt:")
"""Of an exception in one line of the log."""
_ERROR_LINE = re.compile(r"E\d{4} |error: |terminate called| +what\(\)")


class ServerError(FasterTransformerError):
    """There is no tritonserver, or it did not start; the text has its own words."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A tritonserver: its program, its Python backend and what its environment needs."""

    program: Path
    python_backend: Path
    stub: Path | None = None
    """The stub of the running Python, where it does not lie in the Python backend."""
    libraries: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


def find_installation() -> Installation:
    """`/opt/tritonserver`, then PATH, then the server inside the nvidia-pytriton wheel.

    Raises:
        ServerError: there is none.
    """
    on_path = shutil.which("tritonserver")
    for program in (Path("/opt/tritonserver/bin/tritonserver"), Path(on_path) if on_path else None):
        if program is not None and program.exists():
            root = program.resolve().parent.parent
            return Installation(program, root / "backends" / "python")
    bundled = Path(sysconfig.get_path("purelib"), "pytriton", "tritonserver")
    if not bundled.exists():
        raise ServerError(
            "no tritonserver in /opt/tritonserver, on PATH or in the nvidia-pytriton package; "
            "pip install --no-deps nvidia-pytriton==0.7.0 brings one"
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Installation(
        program=bundled / "bin" / "tritonserver",
        python_backend=bundled / "backends" / "python",
        stub=bundled / "python_backend_stubs" / version / "triton_python_backend_stub",
        libraries=(bundled.parents[1] / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))),
    )


def write_backends(installation: Installation, folder: Path) -> Path:
    """A backend directory that holds `python` and `fastertransformer`.

    The files are copied: tritonserver refuses a library that a link leads out of its folder.
    """
    python = folder / "python"
    python.mkdir(parents=True)
    files = [file for file in installation.python_backend.iterdir() if file.name != "__pycache__"]
    for source in [*files, *([installation.stub] if installation.stub else [])]:
        shutil.copy(source, python)
    (folder / "fastertransformer").symlink_to(backend_folder())
    return folder


def environment(installation: Installation) -> dict[str, str]:
    """The stub takes the Python that it finds on PATH: it must be this one."""
    libraries = [*map(str, installation.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }


@contextmanager
def signals_held() -> Iterator[None]:
    """Handlers of signals run at the end: no process is left that was started and not yet known."""
    came: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()  # handlers run in no other
    numbers = [n for n in signal.valid_signals() if is_main and callable(signal.getsignal(n))]
    handlers = {number: signal.signal(number, lambda found, _: came.append(found)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for found in came:
        signal.raise_signal(found)


@dataclass(slots=True)
class TritonServer:
    """A running tritonserver; a context that ends with it.

    Args:
        prefix: a command that starts it, such as an mpirun.
        arguments: more options for tritonserver.
        variables: more environment variables.
    """

    repository: Path
    ports: Ports
    host: str = "127.0.0.1"
    prefix: Sequence[str] = ()
    arguments: Sequence[str] = ()
    variables: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes]" = field(init=False)
    _folder: "tempfile.TemporaryDirectory[str]" = field(init=False)
    _installation: Installation = field(init=False)
    _undo: ExitStack = field(init=False)
    _num_starts: int = 0

    def __enter__(self) -> "TritonServer":
        self._installation = find_installation()
        self._folder = tempfile.TemporaryDirectory(prefix="tritonserver-")
        with ExitStack() as undo:
            undo.callback(self._folder.cleanup)
            write_backends(self._installation, self._backends)
            with signals_held():
                self._start()
                undo.callback(self.stop)
            self._undo = undo.pop_all()
        return self

    def _start(self) -> None:
        command = [
            *self.prefix,
            str(self._installation.program),
            f"--backend-directory={self._backends}",
            f"--model-repository={self.repository}",
            f"--http-address={self.host}",
            f"--grpc-address={self.host}",
            f"--http-port={self.ports.http}",
            f"--grpc-port={self.ports.grpc}",
            f"--metrics-port={self.ports.metrics}",
            "--exit-timeout-secs=20",
            *self.arguments,
        ]
        # A session of its own: a Ctrl-C is for us to pass on, once.
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=environment(self._installation) | self.variables,
                start_new_session=True,
            )
        self._num_starts += 1

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    @property
    def _backends(self) -> Path:
        return Path(self._folder.name, "backends")

    @property
    def log_path(self) -> Path:
        return Path(self._folder.name, "server.log")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_until_ready(self, timeout: float) -> None:
        """Raises: ServerError: it ended or is not ready in time; the text has the end of its log."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                if START_ABORT in self.log and self._num_starts < _MOST_STARTS:
                    with signals_held():
                        self._start()
                    continue
                raise ServerError(
                    f"tritonserver ended with code {self.process.returncode}:\n{self.explanation()}"
                )
            if self._answers():
                return
            time.sleep(_POLL_S)
        raise ServerError(f"tritonserver is not ready after {timeout:g} s:\n{self.explanation()}")

    def stop(self) -> None:
        """As Ctrl-C would; kills it where that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._end_stubs()

    def _end_stubs(self) -> None:
        """One that was just starting waits for ever for a server that is gone."""
        deadline = time.monotonic() + _STUBS_TIMEOUT_S
        with suppress(ProcessLookupError):  # none is left
            while time.monotonic() < deadline:
                os.killpg(self.process.pid, 0)
                time.sleep(_POLL_S)
            os.killpg(self.process.pid, signal.SIGKILL)

    def explanation(self) -> str:
        """What the log says about a failure: why models did not load, else its errors, else its end."""
        lines = self.log.splitlines()
        reasons = [text.replace("\\n", "\n") for text in _LOAD_ERROR.findall(self.log)]
        told = list(dict.fromkeys(reasons)) or [line for line in lines if _ERROR_LINE.match(line)]
        return "\n".join((told or lines)[-12:])

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.ports.http}/v2/health/ready", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
