# SPDX-License-Identifier: BSD-3-Clause
"""How fast this machine reads memory: the ceiling of a decode step."""

import time

import torch

_BYTES = 1 << 30
_RUNS = 5


def read_bandwidth(num_threads: int) -> float:
    """Bytes per second of the best of a few sums over 1 GiB, by `num_threads` threads."""
    torch.set_num_threads(num_threads)
    data = torch.ones(_BYTES // 4, dtype=torch.float32)
    best = float("inf")
    for _ in range(_RUNS):
        start = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - start)
    return _BYTES / best
