# SPDX-License-Identifier: BSD-3-Clause
"""The data plane: collectives over tensors. Implementations: SingleRank, parallel.mpi, parallel.nccl."""

from typing import Protocol

from torch import Tensor


class Communicator(Protocol):
    """One group of ranks that exchange tensors in step."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum over the ranks, in place where the backend can; every rank gets the same bits."""
        ...

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        """Concatenation of every rank's `x` along `dim`, in rank order."""
        ...

    def send(self, x: Tensor, to: int) -> None: ...

    def recv(self, out: Tensor, source: int) -> None: ...


class SingleRank:
    """A group of one: every collective is the identity."""

    rank = 0
    size = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        return x

    def send(self, x: Tensor, to: int) -> None:
        raise AssertionError("a single rank has no peer to send to")

    def recv(self, out: Tensor, source: int) -> None:
        raise AssertionError("a single rank has no peer to receive from")
