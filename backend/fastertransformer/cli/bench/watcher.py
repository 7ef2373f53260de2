# SPDX-License-Identifier: BSD-3-Clause
"""The clients of an engine in this process: they send one workload and time a window of its steps."""

import time
from collections.abc import Iterable

from ...errors import FasterTransformerError
from ...messages import ClientMessage, EngineInfo, EngineStats, FinishReason, Output, Submit
from .recorder import Recorder
from .systems import requests_of
from .workload import Workload

_LONGEST_WINDOW = 20
_WARM_UP = 3
"""Steps of one token for every sequence before the window begins."""


class Watcher:
    """Satisfies engine.engine.Clients. The window is made of steps in which every sequence gets one token;
    where outputs are too short for that, it is the whole run, counted as one step."""

    def __init__(self, workload: Workload, info: EngineInfo, max_num_seqs: int, recorder: Recorder) -> None:
        self._requests = requests_of(workload, info, 0)
        self._running = min(workload.batch, max_num_seqs)
        self._left = workload.batch
        self._recorder = recorder
        self._num_full = 0
        self._started = 0.0
        self._seconds = 0.0
        # A beam search answers at its end alone.
        self.has_steps = workload.output_len > _WARM_UP + 1 and workload.beam_width == 1
        self.num_steps = 0

    @property
    def us_per_step(self) -> float:
        """Raises: FasterTransformerError: there was no window."""
        if self.num_steps == 0:
            raise FasterTransformerError(
                f"{self._running} requests never ran together: the first ended before the last began; "
                "a longer output or a larger max_num_batched_tokens helps"
            )
        return self._seconds / self.num_steps * 1e6

    @property
    def is_open(self) -> bool:
        return self._left > 0

    def receive(self, patience: float | None) -> list[tuple[int, ClientMessage | None]]:
        """All requests at the first call."""
        requests, self._requests = self._requests, ()
        if not requests:
            return []
        if not self.has_steps:
            self._begin()
        return [(0, Submit(requests))]

    def send(self, outputs: Iterable[tuple[int, Output]], stats: EngineStats) -> None:
        """Raises: FasterTransformerError: a request failed."""
        came = [output for _, output in outputs]
        for output in came:
            if output.finish_reason is FinishReason.ERROR:
                raise FasterTransformerError(output.error)
        num_finished = sum(output.finish_reason is not None for output in came)
        self._left -= num_finished
        if came and self.has_steps:
            self._count(len(came), num_finished > 0)
        elif came and not self.is_open:
            self._end(1)

    def _count(self, num_outputs: int, is_last: bool) -> None:
        """Takes in a step that added tokens."""
        self._num_full = self._num_full + 1 if num_outputs == self._running else 0
        size = self._num_full - _WARM_UP
        if size == 0 and not is_last:
            self._begin()
        elif size == _LONGEST_WINDOW or (0 < size < _LONGEST_WINDOW and is_last):
            self._end(size)

    def _begin(self) -> None:
        self._recorder.wait()
        self._recorder.begin()
        self._started = time.perf_counter()

    def _end(self, num_steps: int) -> None:
        self._recorder.wait()
        self._seconds = time.perf_counter() - self._started
        self._recorder.end()
        self.num_steps = num_steps
