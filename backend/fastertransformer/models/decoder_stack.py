# SPDX-License-Identifier: BSD-3-Clause
"""The layers of a stage as the steps of one kernel, where they are of a kind that it computes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.attention import Attention, AttentionShape
from ..layers.cross_attention import CrossAttention
from ..layers.decoder_stack import Attending, DecoderStack, Product, StackPlan, decoder_stack
from ..layers.linear import Linear
from ..layers.mlp import Mlp
from ..layers.norm import NormLayer
from ..quant.dense import DenseWeight
from .block import TOPOLOGIES
from .block_builder import DecoderBlock
from .spec import Residual

_DTYPES = (torch.float16, torch.bfloat16)


def build_stack(blocks: Sequence[DecoderBlock], device: torch.device) -> DecoderStack | None:
    """All layers of a stage as one kernel; None where there is none for them on `device`."""
    plan = plan_stack(blocks)
    return None if plan is None else decoder_stack(plan, device)


def plan_stack(blocks: Sequence[DecoderBlock]) -> StackPlan | None:
    """What such a kernel computes; None where the layers are of another kind, or attend differently."""
    layers = [layer for block in blocks if (layer := _layer_of(block)) is not None]
    if len(layers) < len(blocks) or len({kind for layer in layers for kind in layer.kinds()}) != 1:
        return None
    attention = layers[0].attention
    return StackPlan(
        steps=tuple(step for index, layer in enumerate(layers) for step in layer.steps(index)),
        shape=attention.shape,
        alibi_slopes=attention.alibi_slopes,
        hidden_size=len(layers[0].norms["norm1"].weight),
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    """The parts of a block, of the kinds that the kernel computes."""

    norms: Mapping[str, NormLayer]
    attention: Attention
    cross: CrossAttention | None
    mlp: Mlp

    def kinds(self) -> Iterator[tuple[AttentionShape, tuple[float, ...], int]]:
        """What all attentions have in common: how heads lie and scores are computed, ALiBi's slopes, and
        by which table they are turned."""
        for attention in (self.attention, self.cross):
            if attention is not None:
                slopes = attention.alibi_slopes
                table = id(attention.rope_table)
                yield attention.shape, () if slopes is None else tuple(slopes.tolist()), table

    def linears(self) -> Iterator[Linear]:
        yield from (self.attention.qkv, self.attention.output, self.mlp.up, self.mlp.down)
        if self.cross is not None:
            yield from (self.cross.q, self.cross.output)

    def steps(self, index: int) -> Iterator[Product | Attending]:
        """Args: index: of the layer within its stage."""
        norms, attention, cross, mlp = self.norms, self.attention, self.cross, self.mlp
        yield _product(attention.qkv, norms["norm1"])
        yield Attending(index, False, attention.relative_bias, attention.rope_table)
        yield _product(attention.output)
        if cross is not None:
            yield _product(cross.q, norms["cross_norm"])
            yield Attending(index, is_cross=True)
            yield _product(cross.output)
        yield _product(mlp.up, norms["norm2"], mlp.kind, mlp.is_gated)
        yield _product(mlp.down)


def _layer_of(block: DecoderBlock) -> _Layer | None:
    """None: of another kind, split up over ranks, or with weights in another format."""
    attention, cross, mlp = block.attention, block.cross_attention, block.mlp
    if block.topology is not TOPOLOGIES[Residual.PRE] or block.group.size > 1:
        return None
    if not (isinstance(attention, Attention) and attention.is_plain):
        return None
    if attention.shape.soft_cap or attention.turns_partly:
        return None
    if not (cross is None or isinstance(cross, CrossAttention)):
        return None
    if not (isinstance(mlp, Mlp) and mlp.is_plain):
        return None
    layer = _Layer(block.norms, attention, cross, mlp)
    return layer if all(_has_halves(linear) for linear in layer.linears()) else None


def _has_halves(linear: Linear) -> bool:
    return isinstance(linear.weight, DenseWeight) and linear.weight.tensor.dtype in _DTYPES


def _product(
    linear: Linear, norm: NormLayer | None = None, activation: str = "", is_gated: bool = False
) -> Product:
    return Product(_matrix(linear), linear.bias, norm, activation, is_gated)


def _matrix(linear: Linear) -> Tensor:
    assert isinstance(linear.weight, DenseWeight)
    return linear.weight.tensor
