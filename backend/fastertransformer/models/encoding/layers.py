# SPDX-License-Identifier: BSD-3-Clause
"""Puts the layers of an encoder with norms behind its sums together, with attention of either kind."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...layers.convolution import Convolution
from ...layers.disentangled_attention import DisentangledAttention
from ...layers.heads import Dense
from ...layers.linear import Linear
from ...quant.dense import DenseWeight
from ..block_builder import BlockBuilder
from ..weights import Place
from .model import ConvolvedBlock, PostBlock
from .spec import ConvolutionSpec, Disentangled, EncodingSpec


@dataclass(frozen=True, slots=True)
class LayerBuilder(BlockBuilder):
    """Layers of one rank."""

    encoding: EncodingSpec

    @property
    def disentangled(self) -> Disentangled | None:
        return self.encoding.disentangled

    def blocks(self, layers: range) -> tuple[PostBlock | ConvolvedBlock, ...]:
        relative, biases = self._relative_embeddings(), self._relative_biases(layers, bidirectional=True)
        first, *others = (self._post_block(Place(layer), relative, biases.get(layer)) for layer in layers)
        convolution = self.encoding.convolution
        if convolution is None or layers.start > 0:
            return (first, *others)
        return (self._convolved(first, convolution), *others)

    def _convolved(self, block: PostBlock, spec: ConvolutionSpec) -> ConvolvedBlock:
        """Whole on every rank."""
        size = self.spec.hidden_size
        weight = self.reader.whole("convolution", ".weight", (size, size, spec.width))
        linear = Linear(
            DenseWeight(weight.transpose(1, 2).reshape(size, -1)),
            self.reader.vector("convolution", ".bias", size),
        )
        convolution = Convolution(Dense(linear, spec.activation, None), spec.width // 2)
        return ConvolvedBlock(block, convolution, self.layer_norm("convolution_norm", keeps_sum=False))

    def _post_block(self, place: Place, relative: Tensor | None, bias: Tensor | None) -> PostBlock:
        return PostBlock(
            attention=self._encoder_attention(place, bias)
            if relative is None
            else self._disentangled_attention(place, relative),
            norm1=self.layer_norm("norm1", place, keeps_sum=False),
            mlp=self._mlp(place),
            norm2=self.layer_norm("norm2", place, keeps_sum=False),
            group=self.group,
        )

    def _disentangled_attention(self, place: Place, relative: Tensor) -> DisentangledAttention:
        parts, dim = self.disentangled, self.spec.head_dim
        assert parts is not None
        own = self.reader.share(self.spec.num_attention_heads)
        return DisentangledAttention(
            dim,
            (dim * parts.num_parts) ** -0.5,
            self._qkv(place, own, own),
            self._output("output", place),
            relative_buckets(parts, self.spec.max_position_embeddings).to(self.device),
            self._relative_product("k", place, relative) if parts.content_to_position else None,
            self._relative_product("q", place, relative) if parts.position_to_content else None,
        )

    def _relative_embeddings(self) -> Tensor | None:
        """[R, H]"""
        parts = self.disentangled
        if parts is None:
            return None
        table = self.reader.table("relative", 2 * parts.span, self.spec.hidden_size)
        return self.layer_norm("relative_norm")(table) if parts.normed else table

    def _relative_product(self, role: str, place: Place, relative: Tensor) -> Tensor:
        """[N, R, D]: the relative embeddings as keys or queries of this rank's heads; they never change."""
        parts, columns = self.disentangled, self.spec.hidden_size
        assert parts is not None
        role = role if parts.shared else f"position_{role}"
        own = self.reader.share(columns)
        weight = self.reader.own_rows(role, ".weight", columns, columns, own, place)
        bias = self.reader.own_rows(role, ".bias", columns, 0, own, place)
        product = torch.nn.functional.linear(relative, weight, bias)
        return product.view(len(relative), -1, self.spec.head_dim).transpose(0, 1).contiguous()


def relative_buckets(parts: Disentangled, longest: int) -> Tensor:
    """[2 longest - 1] int32: the row of each distance -(longest - 1) .. longest - 1 of a query behind a key.

    Near distances have a row each, those beyond half of num_buckets share rows by their logarithm.
    """
    distance = torch.arange(1 - longest, longest)
    row = distance
    if parts.num_buckets:
        middle = parts.num_buckets // 2
        far = distance.abs().clamp(min=middle).float() / middle
        steps = torch.log(far) / torch.log(torch.tensor((parts.max_distance - 1) / middle)) * (middle - 1)
        row = torch.where(
            distance.abs() <= middle, distance, (steps.ceil() + middle).long() * distance.sign()
        )
    return (row + parts.span).clamp(0, 2 * parts.span - 1).int()
