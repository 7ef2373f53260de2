# SPDX-License-Identifier: BSD-3-Clause
"""What can be measured: our engine alone, and peers in processes of their own."""

import gc
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from ...config import EngineConfig
from ...errors import FasterTransformerError
from ...messages import EngineInfo, FinishReason, Outputs, Request, SamplingParams
from ...server.client import EngineClient
from ...server.command import interpreter
from ...server.launcher import Launcher
from .workload import Measurement, Workload, measure


class System(Protocol):
    """Something that generates."""

    def run(self, workload: Workload) -> Measurement | None:
        """None: its memory does not hold the workload."""
        ...


class EngineSystem:
    """The engine, through its own socket."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._next_id = 0

    @property
    def info(self) -> EngineInfo:
        return self._client.info

    def run(self, workload: Workload) -> Measurement:
        """Raises: FasterTransformerError: a request failed."""
        sampling = SamplingParams(max_tokens=workload.output_len, end_ids=())
        first = self._next_id
        self._next_id += workload.batch
        requests = [Request(first + i, tuple(p), sampling) for i, p in enumerate(workload.prompts())]
        with _no_garbage_collection():
            frames = self._exchange(requests)
        arrivals: list[list[float]] = [[] for _ in requests]
        tokens: list[list[int]] = [[] for _ in requests]
        for seconds, frame in frames:
            for output in frame.outputs:
                if output.finish_reason is FinishReason.ERROR:
                    raise FasterTransformerError(output.error)
                arrivals[output.id - first] += [seconds] * len(output.tokens)
                tokens[output.id - first] += output.tokens
        return measure(arrivals, tokens)

    def _exchange(self, requests: list[Request]) -> list[tuple[float, Outputs]]:
        """Every step's outputs with the seconds after which they came; looked at later, to keep up."""
        frames: list[tuple[float, Outputs]] = []
        left = len(requests)
        start = time.perf_counter()
        self._client.submit(requests)
        for frame in self._client.outputs():
            frames.append((time.perf_counter() - start, frame))
            left -= sum(output.finish_reason is not None for output in frame.outputs)
            if left == 0:
                break
        return frames


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection among many thousand outputs takes longer than a step."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def engine(config: EngineConfig) -> Iterator[EngineSystem]:
    """A running engine, without Triton."""
    launcher = Launcher(config)
    client = launcher.attach()
    try:
        yield EngineSystem(client)
    finally:
        launcher.detach(client)


class PeerSystem:
    """Another library in a process of its own: it takes workloads on stdin, answers on stdout."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def run(self, workload: Workload) -> Measurement | None:
        """Raises: FasterTransformerError: the peer ended; what it said is on stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(workload) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise FasterTransformerError(f"the peer ended with code {self._process.wait()}")
        return msgspec.json.decode(line, type=Measurement | None)


@contextmanager
def peer(name: str, folder: Path, config: EngineConfig) -> Iterator[PeerSystem]:
    """Starts the peer `name` on a Hugging Face folder, with the engine's types and threads."""
    module = [interpreter(), "-m", "fastertransformer.cli.bench.peer_process"]
    arguments = [name, str(folder), config.data_type, str(config.num_threads), config.load_format]
    with subprocess.Popen([*module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield PeerSystem(process)
        finally:
            process.terminate()
