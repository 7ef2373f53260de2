# SPDX-License-Identifier: BSD-3-Clause
"""A layer of the transformer, and the ways in which its sublayers meet the residual stream.

Every way takes `x`, what the layer before left, adds it to `residual` in place, and returns what it leaves
to be added itself: so a norm and the sum before it are one pass. Where a norm is behind the sum, what a layer
leaves replaces the stream instead. Sublayers return this rank's part of a sum, and it stays one until a norm
takes it: the sum over ranks is part of the same pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

from torch import Tensor

from ..layers.attention import Attention, StepMetadata
from ..layers.encoder_attention import EncoderMetadata
from ..layers.linear import JointLinear, LinearSum
from ..layers.mlp import Mlp
from ..layers.moe import MoeMlp
from ..layers.norm import NormLayer
from ..parallel.comm import Communicator, SingleRank
from .spec import Residual

Metadata = TypeVar("Metadata", bound=StepMetadata | EncoderMetadata)
Context = ParamSpec("Context")
"""What the attention of a layer takes beside its input and the step's metadata: the cache if it has one."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Attention and MLP side by side, whose last products are one sum."""

    attention: Attention
    mlp: Mlp
    output: LinearSum
    input: JointLinear | None
    """Of both, where they have one norm."""

    def __call__(self, x: Tensor, mlp_x: Tensor, metadata: StepMetadata, kv_cache: Tensor) -> Tensor:
        """attention(x) + mlp(mlp_x), [T, H] each"""
        if self.input is None:
            attended = self.attention.inner(x, metadata, kv_cache)
            return self.output(attended, self.mlp.inner(mlp_x, metadata.ia3_rows))
        qkv, inner = self.input(x, self.mlp.kind)
        attended = self.attention.attended(qkv, metadata, kv_cache)
        return self.output(attended, self.mlp.scaled(inner, metadata.ia3_rows))


@dataclass(frozen=True, slots=True)
class Block(Generic[Metadata, Context]):
    """The parts of a layer."""

    topology: "Topology"
    norms: Mapping[str, NormLayer]
    """By role, those that the topology names, and `cross_norm` beside cross-attention."""
    attention: Callable[Concatenate[Tensor, Metadata, Context], Tensor]
    mlp: Mlp | MoeMlp
    group: Communicator
    cross_attention: Callable[Concatenate[Tensor, Metadata, Context], Tensor] | None = None
    """Of a decoder to its encoder, behind the attention to itself."""
    adapters: Mapping[str, Mlp] = field(default_factory=dict)
    """By role, those that the topology names."""
    pair: Callable[Concatenate[Tensor, Tensor, Metadata, Context], Tensor] | None = None
    """Where the topology adds both up."""

    @property
    def is_capturable(self) -> bool:
        """Whether it asks the device nothing, so that a graph can hold it."""
        return not isinstance(self.mlp, MoeMlp) or self.mlp.is_capturable

    def __call__(
        self,
        x: Tensor | None,
        residual: Tensor,
        metadata: Metadata,
        *args: Context.args,
        **kwargs: Context.kwargs,
    ) -> Tensor:
        """[T, H] each: adds `x` to `residual` in place; returns what is left to add. Both are overwritten.

        Args:
            x: what the layer before left; None: `residual` is the stream.
        """
        attends: dict[str, Sublayer] = {"norm1": lambda y: self.attention(y, metadata, *args, **kwargs)}
        cross_attention = self.cross_attention
        if cross_attention is not None:
            attends["cross_norm"] = lambda y: cross_attention(y, metadata, *args, **kwargs)
        mlp: Sublayer = self.mlp
        if metadata.ia3_rows is not None and isinstance(self.mlp, Mlp):
            mlp = partial(self.mlp, ia3_rows=metadata.ia3_rows)

        def both(y: Tensor, z: Tensor) -> Tensor:
            assert self.pair is not None
            return self.pair(y, z, metadata, *args, **kwargs)

        return self.topology.forward(self, x, residual, Sublayers(attends, mlp, both))

    def settle(self, residual: Tensor) -> None:
        """Behind the last layer: what that left is to be added to `residual`, in every topology."""
        if self.topology.replaces:
            residual.zero_()

    @property
    def sharers(self) -> Communicator:
        """The ranks over which what this layer leaves is still to be summed."""
        return self.group if self.topology.leaves_parts else SingleRank()

    def finish(self, x: Tensor, residual: Tensor, norm: NormLayer | None) -> Tensor:
        """Adds what this layer left, whole, to `residual` in place; the norm of that where there is one."""
        if norm is None:
            return residual.add_(self.sharers.all_reduce(x))
        return self.sharers.all_reduce_norm(x, residual, norm)

    def normed(self, role: str, x: Tensor | None, residual: Tensor) -> Tensor:
        """residual += x in place, which is whole; the norm of the sum."""
        norm = self.norms[role]
        return norm(residual) if x is None else norm.add(x, residual)

    def reduced(self, role: str, x: Tensor | None, residual: Tensor) -> Tensor:
        """residual += the sum of `x` over the ranks in place; the norm of the sum."""
        norm = self.norms[role]
        return norm(residual) if x is None else self.group.all_reduce_norm(x, residual, norm)


Sublayer = Callable[[Tensor], Tensor]
SublayerPair = Callable[[Tensor, Tensor], Tensor]


class Sublayers(NamedTuple):
    """The parts of a layer that know what step they are in."""

    attends: Mapping[str, Sublayer]
    """The attentions in their order, each under the role of its norm."""
    mlp: Sublayer
    both: SublayerPair
    """attention(first) + mlp(second)"""


AnyBlock = Block[Any, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """How a block computes, and with which norms."""

    forward: Callable[[AnyBlock, Tensor | None, Tensor, Sublayers], Tensor]
    norms: tuple[str, ...]
    takes_cross_attention: bool = False
    is_parallel: bool = False
    """Attention and MLP are added up."""
    adapters: tuple[str, ...] = ()
    replaces: bool = False
    """What a layer leaves is the stream, and what lies in `residual` counts no more."""
    leaves_parts: bool = False
    """What a layer leaves is this rank's part of a sum."""


def _pre(block: AnyBlock, x: Tensor | None, residual: Tensor, own: Sublayers) -> Tensor:
    """r += attention(norm1(r)), for each attention; r += mlp(norm2(r))"""
    for norm, attend in own.attends.items():
        x = attend(block.reduced(norm, x, residual))
    return own.mlp(block.reduced("norm2", x, residual))


def _post(block: AnyBlock, x: Tensor | None, residual: Tensor, own: Sublayers) -> Tensor:
    """r = norm1(r + attention(r)), for each attention; r = norm2(r + mlp(r))"""
    stream = residual if x is None else x
    for norm, attend in own.attends.items():
        stream = block.reduced(norm, attend(stream), stream)
    return block.reduced("norm2", own.mlp(stream), stream)


def _parallel(block: AnyBlock, x: Tensor | None, residual: Tensor, own: Sublayers) -> Tensor:
    """r += attention(norm1(r)) + mlp(norm2(r)), reduced once"""
    normed = block.reduced("norm1", x, residual)
    return own.both(normed, block.norms["norm2"](residual))


def _parallel_one_norm(block: AnyBlock, x: Tensor | None, residual: Tensor, own: Sublayers) -> Tensor:
    """r += attention(norm1(r)) + mlp(norm1(r)), reduced once"""
    normed = block.reduced("norm1", x, residual)
    return own.both(normed, normed)


def _sandwich(block: AnyBlock, x: Tensor | None, residual: Tensor, own: Sublayers) -> Tensor:
    """r += post_norm1(attention(norm1(r))); r += post_norm2(mlp(norm2(r)))"""
    attended = block.group.all_reduce(own.attends["norm1"](block.normed("norm1", x, residual)))
    normed = block.normed("norm2", block.norms["post_norm1"](attended), residual)
    return block.norms["post_norm2"](block.group.all_reduce(own.mlp(normed)))


def _adapted(block: AnyBlock, x: Tensor | None, residual: Tensor, own: Sublayers) -> Tensor:
    """y = attention(norm1(r)); r += y + adapter1(y); z = mlp(norm2(r)); r += z + adapter2(z)"""
    attended = block.group.all_reduce(own.attends["norm1"](block.normed("norm1", x, residual)))
    attended = block.group.all_reduce(block.adapters["adapter1"](attended)).add_(attended)
    output = block.group.all_reduce(own.mlp(block.normed("norm2", attended, residual)))
    return block.group.all_reduce(block.adapters["adapter2"](output)).add_(output)


TOPOLOGIES = {
    Residual.PRE: Topology(_pre, ("norm1", "norm2"), takes_cross_attention=True, leaves_parts=True),
    Residual.POST: Topology(_post, ("norm1", "norm2"), takes_cross_attention=True, replaces=True),
    Residual.PARALLEL: Topology(_parallel, ("norm1", "norm2"), is_parallel=True, leaves_parts=True),
    Residual.PARALLEL_ONE_NORM: Topology(_parallel_one_norm, ("norm1",), is_parallel=True, leaves_parts=True),
    Residual.SANDWICH: Topology(_sandwich, ("norm1", "norm2", "post_norm1", "post_norm2")),
    Residual.ADAPTED: Topology(_adapted, ("norm1", "norm2"), adapters=("adapter1", "adapter2")),
}
