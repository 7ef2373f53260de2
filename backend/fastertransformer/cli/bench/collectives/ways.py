# SPDX-License-Identifier: BSD-3-Clause
"""The ways that a sum over ranks may take, alone or with the residual sum and the norm behind it."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .... import ops
from ....parallel.comm import Communicator, Norm
from ....parallel.nccl import NcclCommunicator
from ....parallel.peers import PeerCommunicator

_MOST_COLUMNS = 4096
"""Elements of a row that is normalised; of small sums fewer, and a divisor of them."""


@dataclass(frozen=True, slots=True)
class Way:
    """One implementation of a sum."""

    name: str
    run: Callable[..., Tensor]
    """run(x): x becomes the sum. Where `adds`, run(x, residual): the sum is added to `residual`."""
    max_bytes: int | None = None
    adds: bool = False


@dataclass(frozen=True, slots=True)
class _RmsNorm:
    weight: Tensor
    bias: None = None
    eps: float = 1e-6

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return ops.add_rms_norm(x, residual, self.weight, self.eps, True)


def ways_of(group: Communicator) -> Iterator[Way]:
    """All that a group can go, not just the one that it would choose for a size."""
    peers = _peers_of(group)
    if peers is not None:
        yield Way("one shot", peers.one_shot, peers.max_gather_bytes)
        yield Way("two shots", peers.two_shots)
    if isinstance(group, NcclCommunicator):
        yield Way("NCCL", NcclCommunicator(group.group).all_reduce)
    elif not isinstance(group, PeerCommunicator):
        yield Way("MPI", group.all_reduce)


def ways_with_norm(group: Communicator) -> Iterator[Way]:
    """The same up to the norm: in one kernel where there is one, and the sum with a norm behind it."""
    peers = _peers_of(group)
    if peers is not None:
        yield Way("fused one shot", _of_rows(peers.one_shot_norm), peers.max_gather_bytes, adds=True)
        yield Way("fused two shots", _of_rows(peers.two_shots_norm), adds=True)
    for way in ways_of(group):
        yield Way(f"{way.name}, norm", _of_rows(_behind(way)), way.max_bytes, adds=True)


def _peers_of(group: Communicator) -> PeerCommunicator | None:
    if isinstance(group, NcclCommunicator):
        return group.peers
    return group if isinstance(group, PeerCommunicator) else None


def _behind(way: Way) -> Callable[[Tensor, Tensor, Norm], Tensor]:
    return lambda x, residual, norm: norm.add(way.run(x), residual)


def _of_rows(run: Callable[[Tensor, Tensor, Norm], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Of messages, which have no rows."""

    def of_rows(x: Tensor, residual: Tensor) -> Tensor:
        columns = math.gcd(x.numel(), _MOST_COLUMNS)
        norm = _norm(columns, x.dtype, x.device)
        return run(x.view(-1, columns), residual.view(-1, columns), norm)

    return of_rows


@functools.cache
def _norm(columns: int, dtype: torch.dtype, device: torch.device) -> _RmsNorm:
    return _RmsNorm(torch.ones(columns, dtype=dtype, device=device))
