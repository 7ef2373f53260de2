# SPDX-License-Identifier: BSD-3-Clause
"""Everything a rank needs to know about the others: its place, its groups, the control channel."""

from typing import Any, Protocol

import torch

from .comm import Communicator, SingleRank
from .mesh import Mesh
from .pipeline import OneStage, Pipeline

CPU = torch.device("cpu")


class Control(Protocol):
    """Plans from rank 0 to all ranks, in order."""

    def broadcast(self, plan: Any) -> Any:
        """Sends on rank 0, receives elsewhere."""
        ...


class World(Protocol):
    """The ranks of one engine."""

    mesh: Mesh
    device: torch.device
    """What this rank computes on."""
    tensor_group: Communicator
    pipeline: Pipeline
    control: Control

    def minimum(self, value: int) -> int:
        """The smallest value of any rank; also a point that all ranks must reach."""
        ...

    def sum(self, value: int) -> int:
        """The sum over all ranks."""
        ...

    def check(self) -> None:
        """To be called before what a step computed is used; costs next to nothing.

        Raises:
            RuntimeError: a rank waited in vain for another one on its device; the results are wrong.
        """
        ...


class LocalControl:
    """One rank: the plan is where it is needed."""

    def broadcast(self, plan: Any) -> Any:
        return plan


class LocalWorld:
    """One rank, no MPI."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.mesh = Mesh()
        self.device = device
        self.tensor_group: Communicator = SingleRank()
        self.pipeline: Pipeline = OneStage()
        self.control: Control = LocalControl()

    def minimum(self, value: int) -> int:
        return value

    def sum(self, value: int) -> int:
        return value

    def check(self) -> None:
        """There is nobody to wait for."""
