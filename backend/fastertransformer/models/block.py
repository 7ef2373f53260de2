# SPDX-License-Identifier: BSD-3-Clause
"""A layer of the transformer, and the ways in which its sublayers meet the residual stream.

Every way takes `x`, what the layer before left, adds it to `residual` in place, and returns what it leaves
to be added itself: so a norm and the sum before it are one pass. Sublayers return this rank's part of a sum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..layers.attention import Attention, StepMetadata
from ..layers.mlp import Mlp
from ..layers.moe import MoeMlp
from ..layers.norm import NormLayer, add
from ..parallel.comm import Communicator
from .spec import Residual


@dataclass(frozen=True, slots=True)
class Block:
    """The parts of a layer."""

    topology: "Topology"
    norms: Mapping[str, NormLayer]
    """By role, those that the topology names."""
    attention: Attention
    mlp: Mlp | MoeMlp
    group: Communicator
    adapters: Mapping[str, Mlp] = field(default_factory=dict)
    """By role, those that the topology names."""

    def __call__(
        self, x: Tensor | None, residual: Tensor, metadata: StepMetadata, kv_cache: Tensor
    ) -> Tensor:
        """[T, H] each: adds `x` to `residual` in place; returns what is left to add."""
        return self.topology.forward(self, x, residual, lambda y: self.attention(y, metadata, kv_cache))

    def normed(self, role: str, x: Tensor | None, residual: Tensor) -> Tensor:
        """residual += x in place; the norm of the sum."""
        norm = self.norms[role]
        return norm(residual) if x is None else norm.add(x, residual)


Attend = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Topology:
    """How a block computes, and with which norms."""

    forward: Callable[[Block, Tensor | None, Tensor, Attend], Tensor]
    norms: tuple[str, ...]
    adapters: tuple[str, ...] = ()


def _pre(block: Block, x: Tensor | None, residual: Tensor, attend: Attend) -> Tensor:
    """r += attention(norm1(r)); r += mlp(norm2(r))"""
    attended = block.group.all_reduce(attend(block.normed("norm1", x, residual)))
    return block.group.all_reduce(block.mlp(block.normed("norm2", attended, residual)))


def _post(block: Block, x: Tensor | None, residual: Tensor, attend: Attend) -> Tensor:
    """r = norm1(r + attention(r)); r = norm2(r + mlp(r))"""
    stream = residual if x is None else residual.add_(x)
    attended = block.group.all_reduce(attend(stream))
    stream = block.normed("norm1", attended, stream)
    output = block.normed("norm2", block.group.all_reduce(block.mlp(stream)), stream)
    residual.zero_()  # the norm replaces the stream instead of adding to it
    return output


def _parallel(block: Block, x: Tensor | None, residual: Tensor, attend: Attend) -> Tensor:
    """r += attention(norm1(r)) + mlp(norm2(r)), reduced once"""
    attended = attend(block.normed("norm1", x, residual))
    return block.group.all_reduce(add(attended, block.mlp(block.norms["norm2"](residual))))


def _parallel_one_norm(block: Block, x: Tensor | None, residual: Tensor, attend: Attend) -> Tensor:
    """r += attention(norm1(r)) + mlp(norm1(r)), reduced once"""
    normed = block.normed("norm1", x, residual)
    return block.group.all_reduce(add(attend(normed), block.mlp(normed)))


def _sandwich(block: Block, x: Tensor | None, residual: Tensor, attend: Attend) -> Tensor:
    """r += post_norm1(attention(norm1(r))); r += post_norm2(mlp(norm2(r)))"""
    attended = block.group.all_reduce(attend(block.normed("norm1", x, residual)))
    normed = block.normed("norm2", block.norms["post_norm1"](attended), residual)
    return block.norms["post_norm2"](block.group.all_reduce(block.mlp(normed)))


def _adapted(block: Block, x: Tensor | None, residual: Tensor, attend: Attend) -> Tensor:
    """y = attention(norm1(r)); r += y + adapter1(y); z = mlp(norm2(r)); r += z + adapter2(z)"""
    attended = block.group.all_reduce(attend(block.normed("norm1", x, residual)))
    attended = block.group.all_reduce(block.adapters["adapter1"](attended)).add_(attended)
    output = block.group.all_reduce(block.mlp(block.normed("norm2", attended, residual)))
    return block.group.all_reduce(block.adapters["adapter2"](output)).add_(output)


TOPOLOGIES = {
    Residual.PRE: Topology(_pre, ("norm1", "norm2")),
    Residual.POST: Topology(_post, ("norm1", "norm2")),
    Residual.PARALLEL: Topology(_parallel, ("norm1", "norm2")),
    Residual.PARALLEL_ONE_NORM: Topology(_parallel_one_norm, ("norm1",)),
    Residual.SANDWICH: Topology(_sandwich, ("norm1", "norm2", "post_norm1", "post_norm2")),
    Residual.ADAPTED: Topology(_adapted, ("norm1", "norm2"), ("adapter1", "adapter2")),
}
