# SPDX-License-Identifier: BSD-3-Clause
"""What can be measured: our engine alone, and peers in processes of their own."""

import gc
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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

PEER_TIMEOUT_S = 3600.0
"""For the longest workload of the slowest library on a machine that is busy."""
_END_TIMEOUT_S = 10.0


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
    """Another library in a process of its own: it takes workloads on stdin, answers on stdout.

    Args:
        process: with pipes that are not buffered.
        timeout: seconds for an answer; the first one takes the time to load the model, too.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", timeout: float = PEER_TIMEOUT_S) -> None:
        self._process = process
        self._timeout = timeout

    def run(self, workload: Workload) -> Measurement | Encoding | None:
        """Raises: FasterTransformerError: the peer ended or hangs; what it said is on stderr."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # reading tells that it ended
            self._process.stdin.write(msgspec.json.encode(workload) + b"\n")
        return msgspec.json.decode(self._answer(), type=Measurement | Encoding | None)

    def _answer(self) -> bytes:
        """A line, of which pipes pass on a part at a time."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + self._timeout
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise FasterTransformerError(
                    f"the peer did not answer within {self._timeout:g} s; leave it out, or ask for less"
                )
            part = self._process.stdout.read(1 << 20)
            if not part:
                raise FasterTransformerError(f"the peer ended with code {_ended(self._process)}")
            line += part
        return line


def _ended(process: "subprocess.Popen[bytes]") -> int:
    """Return code of a process that is ending, or is made to."""
    try:
        return process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextmanager
def peer(name: str, folder: Path, config: EngineConfig, kind: Kind) -> Iterator[PeerSystem]:
    """Starts the peer `name` on a Hugging Face folder, with the engine's types and threads."""
    module = [interpreter(), "-m", "fastertransformer.cli.bench.peer_process"]
    arguments = [kind.name, name, str(folder), config.data_type, str(config.num_threads), config.load_format]
    pipe = subprocess.PIPE
    with subprocess.Popen([*module, *arguments], bufsize=0, stdin=pipe, stdout=pipe) as process:
        try:
            yield PeerSystem(process)
        finally:
            process.terminate()
            _ended(process)
