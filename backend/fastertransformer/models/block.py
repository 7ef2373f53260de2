# SPDX-License-Identifier: BSD-3-Clause
"""A layer of the transformer, and the ways in which its sublayers meet the residual stream.

Every way takes `x`, what the layer before left, adds it to `residual` in place, and returns what it leaves
to be added itself: so a norm and the sum before it are one pass. Where a norm is behind the sum, what a layer
leaves replaces the stream instead. Sublayers return this rank's part of a sum, and it stays one until a norm
takes it: the sum over ranks is part of the same pass.

Of the last layer only some tokens may be wanted behind its attention (`StepMetadata.kept`): from there on
`x` and `residual` have their rows alone, which is why a layer returns both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

from torch import Tensor

from ..layers.adapter import Adapter
from ..layers.attention import Attention, StepMetadata, rows_of
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
        """attention(x) + mlp(mlp_x): x [T, H], mlp_x [S, H] of the tokens that are kept -> [S, H]"""
        if self.input is None or metadata.kept is not None:  # the joint one is of the same rows
            attended = rows_of(self.attention.inner(x, metadata, kv_cache), metadata.kept)
            return self.output(attended, self.mlp.inner(mlp_x, _kept_ia3_rows(metadata)))
        qkv, inner = self.input(x, self.mlp.kind)
        attended = self.attention.attended(qkv, metadata, kv_cache)
        return self.output(attended, self.mlp.scaled(inner, metadata.ia3_rows))


def _kept_ia3_rows(metadata: StepMetadata | EncoderMetadata) -> Tensor | None:
    rows = metadata.ia3_rows
    return None if rows is None else rows_of(rows, metadata.kept)


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
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    """By role, those that the topology names."""
    pair: Callable[Concatenate[Tensor, Tensor, Metadata, Context], Tensor] | None = None
    """Where the topology adds both up."""
    write: Callable[Concatenate[Tensor, Metadata, Context], None] | None = None
    """Of a decoder: its attention as far as it fills the cache."""

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
    ) -> tuple[Tensor, Tensor]:
        """[T, H] each, overwritten -> what is left to add, and to what: [S, H] of the tokens that are kept.

        Args:
            x: what the layer before left; None: `residual` is the stream.
        """
        y = self.topology.enter(self, x, residual)
        if metadata.kept is not None and len(metadata.kept) == 0:
            # Nothing sees what this layer leaves but through its cache. To end here asks no kernel and no
            # collective behind it what to do with no rows, and saves the attention too.
            assert self.write is not None
            self.write(y, metadata, *args, **kwargs)
            return y[:0], residual[:0]
        return self.topology.forward(self, y, residual, self._sublayers(metadata, *args, **kwargs))

    def _sublayers(self, metadata: Metadata, *args: Context.args, **kwargs: Context.kwargs) -> "Sublayers":
        cross_attention, pair = self.cross_attention, self.pair
        mlp: Sublayer = self.mlp
        if metadata.ia3_rows is not None and isinstance(self.mlp, Mlp):
            mlp = partial(self.mlp, ia3_rows=_kept_ia3_rows(metadata))

        def both(y: Tensor, z: Tensor) -> Tensor:
            assert pair is not None
            return pair(y, z, metadata, *args, **kwargs)

        return Sublayers(
            attend=lambda y: self.attention(y, metadata, *args, **kwargs),
            cross=None
            if cross_attention is None
            else lambda y: cross_attention(y, metadata, *args, **kwargs),
            mlp=mlp,
            both=both,
            keep=lambda y: rows_of(y, metadata.kept),
        )

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

    attend: Sublayer
    """[T, H] -> [S, H]"""
    cross: Sublayer | None
    mlp: Sublayer
    both: SublayerPair
    """attention(first [T, H]) + mlp(second [S, H])"""
    keep: Sublayer
    """[T, H] -> the rows that `attend` leaves [S, H]"""


AnyBlock = Block[Any, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """How a block computes, and with which norms."""

    enter: Callable[[AnyBlock, Tensor | None, Tensor], Tensor]
    """What the attention takes, from what the layer before left and the residual."""
    forward: Callable[[AnyBlock, Tensor, Tensor, Sublayers], tuple[Tensor, Tensor]]
    """All else, from what the attention takes and the residual."""
    norms: tuple[str, ...]
    takes_cross_attention: bool = False
    is_parallel: bool = False
    """Attention and MLP are added up."""
    adapters: tuple[str, ...] = ()
    replaces: bool = False
    """What a layer leaves is the stream, and what lies in `residual` counts no more."""
    leaves_parts: bool = False
    """What a layer leaves is this rank's part of a sum."""


def _enter_sum(block: AnyBlock, x: Tensor | None, residual: Tensor) -> Tensor:
    """norm1(r), where the layer before leaves parts of a sum"""
    return block.reduced("norm1", x, residual)


def _enter_whole(block: AnyBlock, x: Tensor | None, residual: Tensor) -> Tensor:
    """norm1(r), where the layer before leaves the whole"""
    return block.normed("norm1", x, residual)


def _enter_stream(_block: AnyBlock, x: Tensor | None, residual: Tensor) -> Tensor:
    """r, which what the layer before left replaces"""
    return residual if x is None else x


def _pre(block: AnyBlock, y: Tensor, residual: Tensor, own: Sublayers) -> tuple[Tensor, Tensor]:
    """r += attention(norm1(r)), for each attention; r += mlp(norm2(r))"""
    x, residual = own.attend(y), own.keep(residual)
    if own.cross is not None:
        x = own.cross(block.reduced("cross_norm", x, residual))
    return own.mlp(block.reduced("norm2", x, residual)), residual


def _post(block: AnyBlock, y: Tensor, _residual: Tensor, own: Sublayers) -> tuple[Tensor, Tensor]:
    """r = norm1(r + attention(r)), for each attention; r = norm2(r + mlp(r))"""
    stream = block.reduced("norm1", own.attend(y), own.keep(y))
    if own.cross is not None:
        stream = block.reduced("cross_norm", own.cross(stream), stream)
    return block.reduced("norm2", own.mlp(stream), stream), stream


def _parallel(block: AnyBlock, y: Tensor, residual: Tensor, own: Sublayers) -> tuple[Tensor, Tensor]:
    """r += attention(norm1(r)) + mlp(norm2(r)), reduced once"""
    residual = own.keep(residual)
    return own.both(y, block.norms["norm2"](residual)), residual


def _parallel_one_norm(
    _block: AnyBlock, y: Tensor, residual: Tensor, own: Sublayers
) -> tuple[Tensor, Tensor]:
    """r += attention(norm1(r)) + mlp(norm1(r)), reduced once"""
    return own.both(y, own.keep(y)), own.keep(residual)


def _sandwich(block: AnyBlock, y: Tensor, residual: Tensor, own: Sublayers) -> tuple[Tensor, Tensor]:
    """r += post_norm1(attention(norm1(r))); r += post_norm2(mlp(norm2(r)))"""
    attended, residual = block.group.all_reduce(own.attend(y)), own.keep(residual)
    normed = block.normed("norm2", block.norms["post_norm1"](attended), residual)
    return block.norms["post_norm2"](block.group.all_reduce(own.mlp(normed))), residual


def _adapted(block: AnyBlock, y: Tensor, residual: Tensor, own: Sublayers) -> tuple[Tensor, Tensor]:
    """r += adapter1(attention(norm1(r))); r += cross(cross_norm(r)); r += adapter2(mlp(norm2(r)))"""
    x, residual = block.adapters["adapter1"](block.group.all_reduce(own.attend(y))), own.keep(residual)
    if own.cross is not None:
        x = block.group.all_reduce(own.cross(block.normed("cross_norm", x, residual)))
    output = block.group.all_reduce(own.mlp(block.normed("norm2", x, residual)))
    return block.adapters["adapter2"](output), residual


TOPOLOGIES = {
    Residual.PRE: Topology(
        _enter_sum, _pre, ("norm1", "norm2"), takes_cross_attention=True, leaves_parts=True
    ),
    Residual.POST: Topology(
        _enter_stream, _post, ("norm1", "norm2"), takes_cross_attention=True, replaces=True
    ),
    Residual.PARALLEL: Topology(
        _enter_sum, _parallel, ("norm1", "norm2"), is_parallel=True, leaves_parts=True
    ),
    Residual.PARALLEL_ONE_NORM: Topology(
        _enter_sum, _parallel_one_norm, ("norm1",), is_parallel=True, leaves_parts=True
    ),
    Residual.SANDWICH: Topology(_enter_whole, _sandwich, ("norm1", "norm2", "post_norm1", "post_norm2")),
    Residual.ADAPTED: Topology(
        _enter_whole,
        _adapted,
        ("norm1", "norm2"),
        takes_cross_attention=True,
        adapters=("adapter1", "adapter2"),
    ),
}
