# SPDX-License-Identifier: BSD-3-Clause
"""Tensor-parallel ranks as threads of one process, so that every mesh can be tested without MPI."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from fastertransformer.parallel.comm import Norm

Result = TypeVar("Result")
WAIT_SECONDS = 60


class ThreadGroup:
    """One rank's view of a group; the ranks meet at a barrier and read each other's tensors."""

    def __init__(self, rank: int, tensors: list[torch.Tensor | None], barrier: threading.Barrier) -> None:
        self.rank = rank
        self.size = len(tensors)
        self._tensors = tensors
        self._barrier = barrier

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._exchange(x)).sum(0)

    def all_reduce_norm(self, x: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        return norm.add(self.all_reduce(x), residual)

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat(self._exchange(x), dim)

    def _exchange(self, x: torch.Tensor) -> list[torch.Tensor]:
        self._tensors[self.rank] = x
        self._barrier.wait()
        copies = [tensor.clone() for tensor in self._tensors]
        self._barrier.wait()
        return copies


def groups(size: int) -> list[ThreadGroup]:
    """The views of all ranks of one group."""
    tensors: list[torch.Tensor | None] = [None] * size
    barrier = threading.Barrier(size, timeout=WAIT_SECONDS)
    return [ThreadGroup(rank, tensors, barrier) for rank in range(size)]


def together(work: Callable[[int], Result], size: int) -> list[Result]:
    """work(rank) of all ranks at the same time."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, range(size)))
