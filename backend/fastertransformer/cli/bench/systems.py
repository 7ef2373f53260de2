# SPDX-License-Identifier: BSD-3-Clause
"""What can be measured: our engine alone, and peers in processes of their own."""

import gc
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from ...config import EngineConfig
from ...errors import FasterTransformerError
from ...messages import (
    AnyRequest,
    EncodeRequest,
    EngineInfo,
    FinishReason,
    Outputs,
    Request,
    SamplingParams,
    token_ids,
)
from ...models.encoding.model import EMBEDDING
from ...server.client import EngineClient
from ...server.command import interpreter
from ...server.launcher import Launcher
from .kind import Kind
from .workload import Encoding, Measurement, Workload, measure, spread


class System(Protocol):
    """Something that generates or encodes."""

    def run(self, workload: Workload) -> Measurement | Encoding | None:
        """None: its memory does not hold the workload."""
        ...


def requests_of(workload: Workload, info: EngineInfo, first_id: int) -> Sequence[AnyRequest]:
    """What a client of the engine would send."""
    numbered = list(enumerate(workload.prompts(), first_id))
    if info.encoder is not None:
        return [EncodeRequest(id=i, tokens=token_ids(p), outputs=(EMBEDDING,)) for i, p in numbered]
    samplings = [
        SamplingParams(max_tokens=length, end_ids=(), beam_width=workload.beam_width)
        for length in workload.output_lens
    ]
    pairs = zip(numbered, samplings, strict=True)
    if info.max_encoder_len:
        start = token_ids((info.start_id,))
        return [Request(i, start, sampling, encoder_tokens=token_ids(p)) for (i, p), sampling in pairs]
    return [Request(i, token_ids(p), sampling) for (i, p), sampling in pairs]


class EngineSystem:
    """The engine, through its own socket."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._next_id = 0

    @property
    def info(self) -> EngineInfo:
        return self._client.info

    def run(self, workload: Workload) -> Measurement | Encoding:
        """Raises: FasterTransformerError: a request failed."""
        first = self._next_id
        self._next_id += workload.batch
        requests = requests_of(workload, self.info, first)
        with _no_garbage_collection():
            frames = self._exchange(requests)
        outputs = [(seconds, output) for seconds, frame in frames for output in frame.outputs]
        for _, output in outputs:
            if output.finish_reason is FinishReason.ERROR:
                raise FasterTransformerError(output.error)
        if self.info.encoder is not None:
            found = {output.id: output.arrays[EMBEDDING] for _, output in outputs}
            embeddings = [found[request.id].tolist() for request in requests]
            return Encoding(total_ms=frames[-1][0] * 1e3, embeddings=embeddings)
        arrivals: list[list[float]] = [[] for _ in requests]
        tokens: list[list[int]] = [[] for _ in requests]
        for seconds, output in outputs:
            came = output.beams[0].tokens if output.beams else output.tokens
            arrivals[output.id - first] += (
                spread(seconds, len(came)) if output.beams else [seconds] * len(came)
            )
            tokens[output.id - first] += came
        return measure(arrivals, tokens)

    def _exchange(self, requests: Sequence[AnyRequest]) -> list[tuple[float, Outputs]]:
        """Every step's outputs with the seconds after which they came; looked at later, to keep up."""
        frames: list[tuple[float, Outputs]] = []
        left = len(requests)
        start = time.perf_counter()
        self._client.submit(list(requests))
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

    def run(self, workload: Workload) -> Measurement | Encoding | None:
        """Raises: FasterTransformerError: the peer ended; what it said is on stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(workload) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise FasterTransformerError(f"the peer ended with code {self._process.wait()}")
        return msgspec.json.decode(line, type=Measurement | Encoding | None)


@contextmanager
def peer(name: str, folder: Path, config: EngineConfig, kind: Kind) -> Iterator[PeerSystem]:
    """Starts the peer `name` on a Hugging Face folder, with the engine's types and threads."""
    module = [interpreter(), "-m", "fastertransformer.cli.bench.peer_process"]
    arguments = [kind.name, name, str(folder), config.data_type, str(config.num_threads), config.load_format]
    with subprocess.Popen([*module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield PeerSystem(process)
        finally:
            process.terminate()
