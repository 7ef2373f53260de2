# SPDX-License-Identifier: BSD-3-Clause
"""The private directory of one engine: socket, locks, temporary files and the process id of its guard.

A second one, in memory, has what its ranks share.
"""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import config as configuration
from ..config import EngineConfig
from ..errors import ModelLoadError
from . import processes
from .fingerprint import fingerprint
from .placement import Placement

_SOCKET_PATH_LIMIT = 107
"""Longest path that sockaddr_un holds."""
_TERMINATE_TIMEOUT_S = 10.0
_LOCK = "lock"
_USERS = "users"
_SHARED = "shared"
_STUB = "triton_python_backend_stub"
_REGION = re.compile(r"/dev/shm/\S*_shm_region_\S+")
"""What a stub and its server exchange tensors through."""
_MEANT_FOR = "where engines have their sockets and locks"
_MEMORY = Path("/dev/shm")


class RuntimeDirectory:
    """`<tmp>/fastertransformer-<user>-<pid namespace>/<server pid>-<hash>`, mode 0700.

    Engines are shared by whoever has the same server process, engine configuration, GPU group and
    files of the checkpoint: a model that is loaded after those changed gets what there is now. Raises
    ModelLoadError when the directory is another user's, cannot be made, or its path is too long.
    """

    def __init__(self, server_pid: int, config: EngineConfig, placement: Placement) -> None:
        shared = f"{configuration.encode(config)} {placement} {fingerprint(config.model_checkpoint_path)}"
        key = hashlib.sha256(shared.encode()).hexdigest()[:16]
        self.path = _root() / f"{server_pid}-{key}"
        self.socket = self.path / "engine.sock"
        self.temporary = self.path / "tmp"
        self.memory = _memory_of(self.path)
        self._guard_file = self.path / "guard.pid"
        if len(str(self.socket)) > _SOCKET_PATH_LIMIT:
            raise ModelLoadError(
                f"{self.socket} is too long for a socket ({len(str(self.socket))} characters, allowed are"
                f" {_SOCKET_PATH_LIMIT}): set TMPDIR to a shorter path"
            )

    @contextmanager
    def locked(self, timeout: float, given_up: threading.Event | None = None) -> Iterator[None]:
        """Elects who starts or stops the engine.

        Raises:
            ModelLoadError: another instance held the lock for `timeout` seconds, or until `given_up`.
        """
        file = self._acquire(time.monotonic() + timeout, given_up or threading.Event())
        try:
            yield
        finally:
            os.close(file)

    def attach(self) -> int:
        """A lock that says that the engine is in use, until the file is closed or its process dies."""
        _make(self.path)
        file = os.open(self.path / _USERS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_SH)
        os.write(file, f"{os.getpid()}\n".encode())
        with (self.path / _SHARED).open("a") as shared:
            shared.writelines(f"{region}\n" for region in _regions())
        return file

    def last_one_out(self, file: int) -> bool:
        """Gives up what `attach` returned; True when nobody else uses the engine. Call it locked."""
        try:
            # Who cleans up temporary files may have removed it: then others are in the one that is there now.
            return _lock_now(file, self.path / _USERS)
        finally:
            os.close(file)

    def write_guard(self, pid: int) -> None:
        self._guard_file.write_text(str(pid))

    @property
    def guard(self) -> int | None:
        """Process id of the living parent of this directory's engine."""
        try:
            pid = int(self._guard_file.read_text())
        except (OSError, ValueError):
            return None
        # Process ids are used again: only a process that names this socket is ours.
        return pid if str(self.socket) in processes.command_line(pid) else None

    def stop_engine(self, grace: float = 0.0) -> None:
        """Waits `grace` seconds for the engine to leave by itself, then ends it. Call it locked."""
        pid = self.guard
        if pid is None or processes.wait_until_gone(pid, grace):
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            if not processes.wait_until_gone(pid, _TERMINATE_TIMEOUT_S):
                os.kill(pid, signal.SIGKILL)

    def empty(self) -> None:
        """Takes away what an engine left that was killed. Call it locked, with none running."""
        self.socket.unlink(missing_ok=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(self.memory, ignore_errors=True)
        self.memory.mkdir(mode=0o700)

    def remove(self) -> None:
        """Call it locked; whoever waits for the lock makes the directory anew."""
        remove(self.path)

    def _acquire(self, deadline: float, given_up: threading.Event) -> int:
        path = self.path / _LOCK
        while True:
            _make(self.path)
            with suppress(FileNotFoundError):  # removed between the two calls
                file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                if _lock_now(file, path):
                    return file
                os.close(file)
            if given_up.wait(0.05):
                raise ModelLoadError(f"the model was unloaded while it waited for {path}")
            if time.monotonic() > deadline:
                raise ModelLoadError(f"another instance kept {path} locked for too long")


class Users:
    """Who uses the engine in a directory, as its guard sees it: no user that is killed ends an engine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None

    def are_gone(self) -> bool:
        """Whether they left without a word; nobody comes then any more, as long as this process lives."""
        if self._lock is None:
            self._lock = _locked(self._path / _LOCK)  # who starts or stops the engine has it
            if self._lock is not None and not self._is_unused():
                os.close(self._lock)
                self._lock = None
        return self._lock is not None

    def _is_unused(self) -> bool:
        file = _locked(self._path / _USERS)
        if file is not None:
            os.close(file)
        return file is not None


def sweep() -> None:
    """Removes what servers left that were killed together with the guards of their engines."""
    for path in _root().iterdir():
        server_pid = path.name.partition("-")[0]
        if server_pid.isdigit() and not processes.is_alive(int(server_pid)):
            clear(path)


def clear(path: Path) -> None:
    """Removes the directory of a server that is gone, and the memory that its instances shared with it.

    The stubs of a killed server are meant to end by themselves, but some hang in it for ever.
    """
    server_pid = path.name.partition("-")[0]
    with suppress(FileNotFoundError):
        for pid in map(int, (path / _USERS).read_text().split()):
            # A stub has the process id of its server among its arguments.
            if {_STUB, server_pid} <= {Path(word).name for word in processes.command_line(pid).split()}:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    with suppress(FileNotFoundError):
        for region in (path / _SHARED).read_text().split():
            Path(region).unlink(missing_ok=True)
    remove(path)


def remove(path: Path) -> None:
    """Removes the directory of an engine that is gone, and what its ranks shared."""
    shutil.rmtree(_memory_of(path), ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)


def _memory_of(path: Path) -> Path:
    """In memory, unlike the temporary files: Open MPI's ranks write there what they send to each other."""
    return _MEMORY / f"{path.parent.name}-{path.name}"


def _regions() -> set[str]:
    """Of this process; nobody but the server removes them."""
    return set(_REGION.findall(Path("/proc/self/maps").read_text()))


def _locked(path: Path) -> int | None:
    """A file that is there, locked until it is closed; None while somebody else has it."""
    with suppress(FileNotFoundError):
        file = os.open(path, os.O_RDWR)
        if _lock_now(file, path):
            return file
        os.close(file)
    return None


def _lock_now(file: int, path: Path) -> bool:
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A lock on a file that was removed meanwhile excludes nobody.
        return os.path.samestat(os.fstat(file), path.stat())
    return False


def _root() -> Path:
    """Raises: ModelLoadError: there is no place for it, or what is there is something else."""
    # Process ids mean nothing in another namespace, and containers may share /tmp.
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    path = Path(tempfile.gettempdir(), f"fastertransformer-{os.getuid()}-{namespace}")
    _make(path)
    state = path.lstat()
    is_private = stat.S_ISDIR(state.st_mode) and state.st_mode & 0o777 == stat.S_IRWXU
    if not is_private or state.st_uid != os.getuid():
        raise ModelLoadError(
            f"{path} must be a directory of user {os.getuid()} with mode 0700, {_MEANT_FOR}; it is"
            f" {stat.filemode(state.st_mode)} of user {state.st_uid}: remove it, or set TMPDIR"
        )
    return path


def _make(path: Path) -> None:
    """Makes a directory where nothing is yet. Raises: ModelLoadError."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ModelLoadError(
            f"{path} cannot be made, {_MEANT_FOR}: {error.strerror}; set TMPDIR to a folder for it"
        ) from None
