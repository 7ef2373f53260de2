# SPDX-License-Identifier: BSD-3-Clause
"""A request that nobody waits for any more frees its blocks within half a second."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import client_tools as ct
import pytest
import tritonclient.grpc as grpcclient
from tiny_models import MAX_POSITIONS
from triton_process import TritonServer

NEW = MAX_POSITIONS - 100
PROMPT = list(range(10, 90))
ARRAYS = ct.core_inputs([PROMPT, PROMPT[::-1]], NEW, min_length=NEW)


def cancel_stream(server: TritonServer, running: Callable[[], bool]) -> float:
    with ct.open_stream(server.grpc) as stream:
        stream.send("streaming", ARRAYS)
        stream.next()
        assert running()
        return time.monotonic()


def cancel_call(server: TritonServer, running: Callable[[], bool]) -> float:
    errors: list[Any] = []
    with grpcclient.InferenceServerClient(server.grpc) as client:
        inputs = ct.tensors(grpcclient, ARRAYS)
        call = client.async_infer("fastertransformer", inputs, lambda _result, error: errors.append(error))
        while not running():
            assert not errors
        call.cancel()
        return time.monotonic()


def disconnect_http(server: TritonServer, running: Callable[[], bool]) -> float:
    body = json.dumps({"text_input": "Hello", "max_tokens": NEW, "min_tokens": NEW, "stream": True})
    head = f"POST /v2/models/text/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
        connection.sendall((head + body).encode())
        connection.recv(100)
        assert running()
    return time.monotonic()


@pytest.mark.parametrize("cancel", [cancel_stream, cancel_call, disconnect_http])
def test_blocks_are_free_within_half_a_second(server: TritonServer, cancel: Callable[..., float]) -> None:
    before = server.observe("llama")
    assert before.num_running == 0

    def running() -> bool:
        return server.observe("llama").num_running > 0

    cancelled = cancel(server, running)
    while (now := server.observe("llama")).num_running or now.num_free_blocks != before.num_free_blocks:
        assert time.monotonic() < cancelled + 0.5, now
    short = ct.core_inputs([PROMPT], 3)
    assert ct.grpc_infer(server.grpc, "fastertransformer", short)["sequence_length"][0, 0] > 0
