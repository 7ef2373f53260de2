# SPDX-License-Identifier: BSD-3-Clause
"""The ways that a sum over ranks may take."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ....parallel.comm import Communicator
from ....parallel.nccl import NcclCommunicator
from ....parallel.peers import PeerCommunicator


@dataclass(frozen=True, slots=True)
class Way:
    """One implementation of a sum, in place."""

    name: str
    all_reduce: Callable[[Tensor], Tensor]
    max_bytes: int | None = None


def ways_of(group: Communicator) -> Iterator[Way]:
    """All that a group can go, not just the one that it would choose for a size."""
    peers = group.peers if isinstance(group, NcclCommunicator) else group
    if isinstance(peers, PeerCommunicator):
        yield Way("one shot", peers.one_shot, peers.max_gather_bytes)
        yield Way("two shots", peers.two_shots)
    if isinstance(group, NcclCommunicator):
        yield Way("NCCL", NcclCommunicator(group.group).all_reduce)
    elif not isinstance(group, PeerCommunicator):
        yield Way("MPI", group.all_reduce)
