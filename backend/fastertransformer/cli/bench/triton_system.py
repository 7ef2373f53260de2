# SPDX-License-Identifier: BSD-3-Clause
"""Our engine behind a tritonserver on this machine, measured by gRPC streams."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient import grpc

from ...errors import FasterTransformerError
from ..demo import free_ports
from ..repository import write_repository
from ..serve import running
from ..tritonserver import Ports
from .workload import Measurement, Workload, measure, spread

RUN_TIMEOUT_S = 1800.0


class TritonSystem:
    """The token model of a tritonserver on this machine, one gRPC stream for each request."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, workload: Workload) -> Measurement:
        """Raises: FasterTransformerError: a request failed."""
        prompts = workload.prompts()
        streams = [_Stream(self._address, len(prompt)) for prompt in prompts]
        start = time.perf_counter()
        for stream, prompt, count in zip(streams, prompts, workload.output_lens, strict=True):
            stream.send(prompt, count)
        for stream in streams:
            stream.wait()
        arrivals = [[at - start for at in stream.arrivals] for stream in streams]
        return measure(arrivals, [stream.tokens for stream in streams])


class _Stream:
    """One request and the times at which its tokens came."""

    def __init__(self, address: str, input_len: int) -> None:
        self.arrivals: list[float] = []
        self.tokens: list[int] = []
        self._input_len = input_len
        self._error = ""
        self._ended = threading.Event()
        self._client = grpc.InferenceServerClient(address)
        self._client.start_stream(self._receive)

    def send(self, prompt: list[int], output_len: int) -> None:
        values = {
            "input_ids": prompt,
            "input_lengths": [len(prompt)],
            "request_output_len": [output_len],
            "end_id": [0],
            "min_length": [output_len + 1],
        }
        inputs = []
        for name, value in values.items():
            kind = ("INT32", np.int32) if name == "min_length" else ("UINT32", np.uint32)
            tensor = grpc.InferInput(name, [1, len(value)], kind[0])
            tensor.set_data_from_numpy(np.array([value], kind[1]))
            inputs.append(tensor)
        self._client.async_stream_infer("fastertransformer", inputs, enable_empty_final_response=True)

    def wait(self) -> None:
        finished = self._ended.wait(RUN_TIMEOUT_S)
        self._client.stop_stream()
        self._client.close()
        if self._error or not finished:
            raise FasterTransformerError(self._error or "a stream did not end")

    def _receive(self, result: Any, error: Any) -> None:
        now = time.perf_counter()
        if error is not None:
            self._error = error.message()
            self._ended.set()
            return
        response = result.get_response()
        if response.outputs:
            end = int(result.as_numpy("output_lengths").reshape(-1)[0])
            generated = result.as_numpy("output_ids").reshape(-1)[self._input_len : end].tolist()
            self._take(generated, now)
        if response.parameters["triton_final_response"].bool_param:
            self._ended.set()

    def _take(self, generated: list[int], now: float) -> None:
        """Tokens that come together share the time since the response before."""
        count = len(generated) - len(self.tokens)
        last = self.arrivals[-1] if self.arrivals else now
        self.arrivals += [last + after for after in spread(now - last, count)]
        self.tokens = generated


@contextmanager
def triton(path: Path, parameters: dict[str, str]) -> Iterator[TritonSystem]:
    """A tritonserver with the token model alone, streaming."""
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        model = "fastertransformer"
        write_repository(path, Path(folder), parameters, models={model: model}, decoupled={model: True})
        with running(Path(folder), Ports(*free_ports(3))) as server:
            yield TritonSystem(f"{server.host}:{server.ports.grpc}")
