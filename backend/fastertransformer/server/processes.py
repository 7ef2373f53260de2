# SPDX-License-Identifier: BSD-3-Clause
"""Looking at processes through /proc."""

import time
from pathlib import Path

SIGNALLED = 128
"""So much more than the number of a signal a program returns, as a shell does, when one ended what it ran."""
_STATE_AND_PARENT = 2


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not yet reaped does not."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def command_line(pid: int) -> str:
    """Arguments of a process joined by blanks; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [child for child in pids if _stat(child)[1:] == [str(pid)]]


def wait_until_gone(pid: int, timeout: float) -> bool:
    """Waits for a process that need not be a child; False when it still runs after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _stat(pid: int) -> list[str]:
    """State letter and parent of a process; empty when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The second field is the program's name in parentheses and may hold anything, blanks too.
    return text.rpartition(")")[2].split()[:_STATE_AND_PARENT]
