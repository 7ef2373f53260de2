# SPDX-License-Identifier: BSD-3-Clause
"""A server that loads and unloads what it is told to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tritonclient.grpc as grpcclient
from triton_process import TritonServer

UNLOAD_TIMEOUT_S = 60


@contextmanager
def explicit_server(folder: Path, *launcher: str) -> Iterator[TritonServer]:
    """Its repository is `folder`/models, empty at first."""
    (folder / "models").mkdir()
    running = TritonServer(folder, folder / "models", ["--model-control-mode=explicit"], launcher)
    try:
        yield running
    finally:
        running.stop()


def unload(client: grpcclient.InferenceServerClient, name: str) -> None:
    """Waits: the server answers before the model is gone."""
    client.unload_model(name)
    deadline = time.monotonic() + UNLOAD_TIMEOUT_S
    while (
        next(m for m in client.get_model_repository_index().models if m.name == name).state != "UNAVAILABLE"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def left(server: TritonServer) -> list[object]:
    """What engines leave behind."""
    return [*server.engine_processes(), *server.temporary.glob("fastertransformer-*/*")]
