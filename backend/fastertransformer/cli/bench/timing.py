# SPDX-License-Identifier: BSD-3-Clause
"""How long calls take on a device: events and graphs on a GPU, the clock on a CPU."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Call = Callable[[], object]

_RUNS = 5
_REPLAYS = 4
"""Graph launches of one timing, so that what starts a graph weighs little."""


def seconds(call: Call, device: torch.device) -> float:
    """From start to end of `call` on the device."""
    if device.type == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    cuda: Any = torch.cuda
    first, last = (cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


def best_seconds(call: Call, device: torch.device) -> float:
    """The shortest of a few runs, after one that warms up."""
    call()
    return min(seconds(call, device) for _ in range(_RUNS))


def seconds_per_call(calls: Sequence[Call], device: torch.device, capture: bool = True) -> float:
    """Mean over `calls`, which follow each other: on a GPU in one graph.

    Args:
        capture: False for calls that read from the device and so fit into no graph.
    """

    def all_calls() -> None:
        for call in calls:
            call()

    if device.type == "cpu" or not capture:
        return best_seconds(all_calls, device) / len(calls)
    graph = capture_graph(all_calls)

    def replay() -> None:
        for _ in range(_REPLAYS):
            graph.replay()

    return best_seconds(replay, device) / (_REPLAYS * len(calls))


def capture_graph(call: Call) -> torch.cuda.CUDAGraph:
    """A graph of everything that `call` launches; run once before, so that libraries are set up.

    What other threads do meanwhile, as NCCL's watchdog, does not disturb.
    """
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph
