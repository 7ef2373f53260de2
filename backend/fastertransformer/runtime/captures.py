# SPDX-License-Identifier: BSD-3-Clause
"""Steps captured as CUDA graphs: one launch by the host for all kernels of a step.

Everything that changes between steps lies in device memory that the graph reads.
"""

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor

_WARM_UP_RUNS = 2

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


@contextmanager
def _no_collection() -> Iterator[None]:
    """A graph of an engine that is gone must not be destroyed during a capture, which would fail by it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Captures(Generic[Key, Result]):
    """One graph for every key, all in the same memory: results are valid until the next launch of any.

    Args:
        lay_out: gives, for a key, the memory of what changes and the step that reads it; the step
            launches the same kernels whatever lies there.
    """

    def __init__(self, lay_out: Callable[[Key], tuple[Tensor, Callable[[], Result]]]) -> None:
        self._lay_out = lay_out
        self._pool = torch.cuda.graph_pool_handle()
        self._captured: dict[Key, tuple[torch.cuda.CUDAGraph, Tensor, Result]] = {}

    def capture_all(self, keys: Sequence[Key], progress: Callable[[int, int], None]) -> None:
        """In this order; the largest first, so that the smaller ones fit into its memory.

        Args:
            progress: called with (graphs captured, graphs in all).
        """
        for done, key in enumerate(keys, 1):
            self._capture(key)
            progress(done, len(keys))

    def clear(self) -> None:
        """Forgets all graphs: memory that they read was replaced. Each is captured again when needed."""
        self._captured.clear()

    def launch(self, key: Key, fill: Callable[[Tensor], object]) -> Result:
        """The step of `key`, after `fill` has written into its memory; captured first if it was not."""
        if key not in self._captured:
            self._capture(key)
        graph, inputs, result = self._captured[key]
        fill(inputs)
        graph.replay()
        return result

    def _capture(self, key: Key) -> None:
        inputs, step = self._lay_out(key)
        for _ in range(_WARM_UP_RUNS):
            step()
        torch.cuda.current_stream().synchronize()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        with (
            _no_collection(),
            torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"),
        ):
            result = step()
        self._captured[key] = graph, inputs, result
