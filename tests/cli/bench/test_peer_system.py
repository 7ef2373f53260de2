# SPDX-License-Identifier: BSD-3-Clause
"""A peer's process that does not answer as it should."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastertransformer.cli.bench.systems import PeerSystem
from fastertransformer.cli.bench.workload import Workload
from fastertransformer.errors import FasterTransformerError

WORKLOAD = Workload(1, 4, 5, 100)


@contextmanager
def peer(program: str, timeout: float) -> Iterator[PeerSystem]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe) as process:
        yield PeerSystem(process, timeout)
        process.kill()


@pytest.mark.parametrize("said", ["", "nul"])
def test_a_peer_that_hangs(said: str) -> None:
    with (
        peer(f"import time; print({said!r}, end='', flush=True); time.sleep(300)", 2) as system,
        pytest.raises(FasterTransformerError, match="the peer did not answer within 2 s"),
    ):
        system.run(WORKLOAD)


def test_a_peer_that_ends() -> None:
    with (
        peer("import sys; sys.exit(3)", 60) as system,
        pytest.raises(FasterTransformerError, match="the peer ended with code 3"),
    ):
        system.run(WORKLOAD)


def test_an_answer_in_pieces() -> None:
    program = "import time\nfor part in 'nu', 'll', '\\n': print(part, end='', flush=True); time.sleep(0.2)"
    with peer(program, 60) as system:
        assert system.run(WORKLOAD) is None
