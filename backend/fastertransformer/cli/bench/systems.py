# SPDX-License-Identifier: BSD-3-Clause
"""What can be measured: our engine alone, our engine behind Triton, and peers in processes of their own."""

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from tritonclient import grpc

from ...config import EngineConfig
from ...errors import FasterTransformerError
from ...messages import FinishReason, Request, SamplingParams
from ...server.client import EngineClient
from ...server.command import interpreter
from ...server.launcher import Launcher
from ..demo import free_ports
from ..serve import running, write_repository
from ..tritonserver import Ports
from .workload import Measurement, Workload, measure

RUN_TIMEOUT_S = 1800.0


class System(Protocol):
    """Something that generates."""

    def run(self, workload: Workload) -> Measurement: ...


class EngineSystem:
    """The engine, through its own socket."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._next_id = 0

    def run(self, workload: Workload) -> Measurement:
        """Raises: FasterTransformerError: a request failed."""
        sampling = SamplingParams(max_tokens=workload.output_len, end_ids=())
        first = self._next_id
        self._next_id += workload.batch
        requests = [Request(first + i, tuple(p), sampling) for i, p in enumerate(workload.prompts())]
        arrivals: list[list[float]] = [[] for _ in requests]
        tokens: list[list[int]] = [[] for _ in requests]
        left = len(requests)
        start = time.perf_counter()
        self._client.submit(requests)
        for message in self._client.outputs():
            now = time.perf_counter() - start
            for output in message.outputs:
                if output.finish_reason is FinishReason.ERROR:
                    raise FasterTransformerError(output.error)
                arrivals[output.id - first] += [now] * len(output.tokens)
                tokens[output.id - first] += output.tokens
                left -= output.finish_reason is not None
            if left == 0:
                break
        return measure(arrivals, tokens)


@contextmanager
def engine(config: EngineConfig) -> Iterator[EngineClient]:
    """A running engine, without Triton. Prefixes are not reused: every run computes its prompts."""
    launcher = Launcher(config)
    client = launcher.attach()
    try:
        yield client
    finally:
        launcher.detach(client)


class TritonSystem:
    """The token model of a tritonserver on this machine, one gRPC stream for each request."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, workload: Workload) -> Measurement:
        """Raises: FasterTransformerError: a request failed."""
        prompts = workload.prompts()
        streams = [_Stream(self._address, len(prompt)) for prompt in prompts]
        start = time.perf_counter()
        for stream, prompt in zip(streams, prompts, strict=True):
            stream.send(prompt, workload.output_len)
        for stream in streams:
            stream.wait()
        arrivals = [[at - start for at in stream.arrivals] for stream in streams]
        return measure(arrivals, [stream.tokens for stream in streams])


class _Stream:
    """One request and the times at which its tokens came; a response may bring several."""

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
            length = int(result.as_numpy("sequence_length").reshape(-1)[0])
            generated = result.as_numpy("output_ids").reshape(-1)[self._input_len :][:length].tolist()
            self.arrivals += [now] * (len(generated) - len(self.tokens))
            self.tokens = generated
        if response.parameters["triton_final_response"].bool_param:
            self._ended.set()


@contextmanager
def triton(path: Path, data_type: str, parameters: dict[str, str]) -> Iterator[TritonSystem]:
    """A tritonserver with the token model alone, streaming."""
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        slots = {"DATA_TYPE": data_type, "DECOUPLED": "true", "CONTRACT": "llama"}
        write_repository(path, Path(folder), slots, parameters, ["fastertransformer"])
        with running(Path(folder), Ports(*free_ports(3))) as server:
            yield TritonSystem(f"{server.host}:{server.ports.grpc}")


class PeerSystem:
    """Another library in a process of its own: it takes workloads on stdin, answers on stdout."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def run(self, workload: Workload) -> Measurement:
        """Raises: FasterTransformerError: the peer ended; what it said is on stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(workload) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise FasterTransformerError(f"the peer ended with code {self._process.wait()}")
        return msgspec.json.decode(line, type=Measurement)


@contextmanager
def peer(name: str, folder: Path, data_type: str, num_threads: int) -> Iterator[PeerSystem]:
    """Starts the peer `name` on a Hugging Face folder."""
    command = [
        interpreter(),
        "-m",
        "fastertransformer.cli.bench.peers",
        name,
        str(folder),
        data_type,
        str(num_threads),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield PeerSystem(process)
        finally:
            process.terminate()
