# SPDX-License-Identifier: BSD-3-Clause
"""An engine that says what is no message is dead to its clients, who then get another one."""

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastertransformer.errors import EngineDead
from fastertransformer.frames import FrameWriter
from fastertransformer.messages import EngineInfo, Ready
from fastertransformer.server.client import EngineClient

INFO = EngineInfo(model_type="none", vocab_size=9, max_model_len=9, start_id=0, end_ids=(), plan="")
READY = b"".join(FrameWriter().frame(Ready(INFO, 1)))
NONSENSE = [
    pytest.param(struct.pack("<IQ", 3, 0) + b"abc", id="no-message"),
    pytest.param(struct.pack("<IQ", 0, 1 << 62), id="more-than-memory-holds"),
]


@contextlib.contextmanager
def engine(path: Path) -> Iterator["queue.SimpleQueue[bytes]"]:
    """Tells the first one who comes what is put into the queue, up to nothing."""
    words: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def talk() -> None:
        connection, _ = listener.accept()
        with connection:
            while said := words.get(timeout=60):
                connection.sendall(said)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(60)
        listener.bind(str(path))
        listener.listen()
        talking = threading.Thread(target=talk)
        talking.start()
        try:
            yield words
        finally:
            words.put(b"")
            talking.join()


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_instead_of_a_greeting(tmp_path, nonsense):
    with engine(tmp_path / "socket") as words:
        words.put(nonsense)
        with pytest.raises(EngineDead, match="sent what is no message"):
            EngineClient(tmp_path / "socket")


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_instead_of_outputs(tmp_path, nonsense):
    with engine(tmp_path / "socket") as words:
        words.put(READY)
        with contextlib.closing(EngineClient(tmp_path / "socket")) as client:
            words.put(nonsense)
            with pytest.raises(EngineDead, match="sent what is no message"):
                next(client.outputs())
