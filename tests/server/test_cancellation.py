# SPDX-License-Identifier: BSD-3-Clause
"""A request that nobody waits for any more ends soon and frees its blocks."""

import json
import socket
from collections.abc import Callable
from typing import Any

import client_tools as ct
import pytest
import tritonclient.grpc as grpcclient
from tiny_models import LONG
from triton_process import TritonServer, wait_for

SAMPLES = 32
"""Of a request: the cache has room for two of so many tokens, so that most have to wait for others to end."""
PROMPT = list(range(10, 90))
ARRAYS = ct.core_inputs([PROMPT, PROMPT[::-1]], LONG, min_length=LONG, num_return_sequences=SAMPLES // 2)
SOON_S = 30
"""Much less than all of the tokens take on any machine, much more than a busy one takes to cancel."""


def cancel_stream(server: TritonServer, running: Callable[[], bool]) -> None:
    with ct.open_stream(server.grpc) as stream:
        stream.send("streaming", ARRAYS)
        stream.next()
        assert running()


def cancel_call(server: TritonServer, running: Callable[[], bool]) -> None:
    errors: list[Any] = []
    with grpcclient.InferenceServerClient(server.grpc) as client:
        inputs = ct.tensors(grpcclient, ARRAYS)
        call = client.async_infer("fastertransformer", inputs, lambda _result, error: errors.append(error))
        wait_for(running, 60, "it runs")
        assert not errors
        call.cancel()


def disconnect_http(server: TritonServer, running: Callable[[], bool]) -> None:
    counts = {"max_tokens": LONG, "min_tokens": LONG, "num_return_sequences": SAMPLES}
    body = json.dumps({"text_input": "Hello", "stream": True, **counts})
    head = f"POST /v2/models/text/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
        connection.sendall((head + body).encode())
        connection.recv(100)
        assert running()


@pytest.mark.parametrize("cancel", [cancel_stream, cancel_call, disconnect_http])
def test_blocks_are_free_soon(server: TritonServer, cancel: Callable[..., None]) -> None:
    before = server.observe("llama")
    assert before.num_running == 0

    def running() -> bool:
        return server.observe("llama").num_running > 0

    def free() -> bool:
        now = server.observe("llama")
        return not now.num_running and now.num_free_blocks == before.num_free_blocks

    cancel(server, running)
    wait_for(free, SOON_S, "its blocks are free")
    short = ct.core_inputs([PROMPT], 3)
    assert ct.grpc_infer(server.grpc, "fastertransformer", short)["sequence_length"][0, 0] > 0
