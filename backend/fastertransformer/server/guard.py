# SPDX-License-Identifier: BSD-3-Clause
"""Parent of an engine group: nothing of it outlives server or users, whoever of them is killed and how.

`python -m fastertransformer.server.guard SERVER_PID DIRECTORY RESET_AFFINITY COMMAND...` runs
COMMAND and exits with its code. What COMMAND prints goes on to the starter's pipe; when the
starter has left and others still use the engine, it goes to the server's own stderr.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from . import processes, rundir

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.25
_LEAVE_S = 3.0
"""An engine whose server or clients are gone sees that by itself; after this time it is made to."""
_TERMINATE_S = 3.0
_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> int:
    server_pid, path, reset_affinity, *command = arguments
    directory = Path(path)
    users = rundir.Users(directory)
    if reset_affinity == "1":
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    # Ranks whose mpirun is killed become children of this process instead of init's.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda signum, _frame: sys.exit(processes.SIGNALLED + signum))
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_die_with_guard,  # noqa: PLW1509 - no thread runs yet
    )
    assert child.stdout is not None
    forwarder = threading.Thread(target=_forward, args=(child.stdout,), daemon=True)
    forwarder.start()
    try:
        _wait(child, int(server_pid), users)
    finally:
        _end_descendants(child)
        if not processes.is_alive(int(server_pid)):
            rundir.clear(directory)
        elif users.are_gone():
            rundir.remove(directory)
        forwarder.join(_TERMINATE_S)
    return child.returncode if child.returncode >= 0 else processes.SIGNALLED - child.returncode


def _die_with_guard() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _forward(lines: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        for line in lines:
            os.write(sys.stdout.fileno(), line)
    for line in lines:
        os.write(sys.stderr.fileno(), line)


def _wait(child: subprocess.Popen[bytes], server_pid: int, users: rundir.Users) -> None:
    """Until it has ended, or was given the time for that when nobody needed it any more."""
    while child.poll() is None and processes.is_alive(server_pid) and not users.are_gone():
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_S)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_LEAVE_S)


def _end_descendants(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM first: mpirun then ends its ranks and removes its session files."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_TERMINATE_S)
    deadline = time.monotonic() + _TERMINATE_S
    while (pids := processes.children(os.getpid())) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.01)
    child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
