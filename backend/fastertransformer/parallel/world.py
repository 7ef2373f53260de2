# SPDX-License-Identifier: BSD-3-Clause
"""Everything a rank needs to know about the others: its place, its groups, the control channel."""

from typing import Any, Protocol

from .comm import Communicator, SingleRank
from .mesh import Mesh
from .pipeline import OneStage, Pipeline


class Control(Protocol):
    """Plans from rank 0 to all ranks, in order."""

    def broadcast(self, plan: Any) -> Any:
        """Sends on rank 0, receives elsewhere."""
        ...


class World(Protocol):
    """The ranks of one engine."""

    mesh: Mesh
    tensor_group: Communicator
    pipeline: Pipeline
    control: Control

    def minimum(self, value: int) -> int:
        """The smallest value of any rank; also a point that all ranks must reach."""
        ...

    def sum(self, value: int) -> int:
        """The sum over all ranks."""
        ...


class LocalControl:
    """One rank: the plan is where it is needed."""

    def broadcast(self, plan: Any) -> Any:
        return plan


class LocalWorld:
    """One rank, no MPI."""

    def __init__(self) -> None:
        self.mesh = Mesh()
        self.tensor_group: Communicator = SingleRank()
        self.pipeline: Pipeline = OneStage()
        self.control: Control = LocalControl()

    def minimum(self, value: int) -> int:
        return value

    def sum(self, value: int) -> int:
        return value
