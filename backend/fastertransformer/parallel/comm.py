# SPDX-License-Identifier: BSD-3-Clause
"""The data plane: collectives over tensors. Implementations: SingleRank, parallel.mpi, parallel.nccl."""

from typing import Protocol

from torch import Tensor


class Norm(Protocol):
    """What may follow a sum: layers/norm.py."""

    @property
    def weight(self) -> Tensor:
        """[H]"""
        ...

    @property
    def bias(self) -> Tensor | None:
        """[H] of a layer norm; None: the norm is a root mean square one."""
        ...

    @property
    def eps(self) -> float: ...

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The norm of residual + x; `residual` becomes the sum where that is kept, and is of no use else."""
        ...


class Communicator(Protocol):
    """One group of ranks that exchange tensors in step."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum over the ranks, in place where the backend can; every rank gets the same bits."""
        ...

    def all_reduce_norm(self, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        """What the norm's `add` gives of the sum of `x` over the ranks. `x` is overwritten.

        Args:
            x, residual: [T, H].
        """
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

    def all_reduce_norm(self, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        return norm.add(x, residual)

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        return x

    def send(self, x: Tensor, to: int) -> None:
        raise AssertionError("a single rank has no peer to send to")

    def recv(self, out: Tensor, source: int) -> None:
        raise AssertionError("a single rank has no peer to receive from")
