# SPDX-License-Identifier: BSD-3-Clause
"""Puts the layers of one rank together: reads every field of a spec once, and every weight."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from ..layers.embedding import Embedding, Head
from ..layers.linear import Linear
from ..layers.position import sinusoidal_table
from ..parallel.comm import Communicator
from ..parallel.mesh import Mesh
from ..quant.dense import DenseWeight
from .block_builder import BlockBuilder
from .decoder_stack import build_stack
from .encoder import Encoder
from .families.layouts import Layout
from .spec import SINUSOIDAL_SPREADS, ModelSpec, Positions
from .transformer import CheckpointInfo, Model
from .weights import WeightReader

Layers = TypeVar("Layers", bound=BlockBuilder)

_OUTER_ROLES = (
    "embedding",
    "project_in",
    "positions",
    "embedding_norm",
    "final_norm",
    "project_out",
    "head",
    "logits_bias",
)
"""Belong to one stage, or to none: a tied head may lie in the file all the same."""


@dataclass(frozen=True, slots=True)
class Builder:
    """One rank's part of a model."""

    reader: WeightReader
    spec: ModelSpec
    qkv_layout: Layout
    mesh: Mesh
    group: Communicator
    num_positions: int
    """Of the rotary tables."""
    dtype: torch.dtype
    device: torch.device

    def model(self, info: CheckpointInfo) -> Model:
        spec, first, last = self.spec, self.mesh.is_first_stage, self.mesh.is_last_stage
        self._expect_outer_roles()
        words = self._words(needed=first or (last and spec.tie_word_embeddings))
        positions = self._positions() if first else None
        head_words = self._head_words(words) if last else None
        before = self.reader.num_bytes
        encoder = self._encoder()
        encoder_bytes = self.reader.num_bytes - before
        layers = self.layers(BlockBuilder)
        blocks, cross_attentions = layers.decoder(self.mesh.layers(spec.num_hidden_layers))
        start, stop = self.reader.share(spec.num_attention_heads)
        kv_start, kv_stop = layers.kv_heads()
        lookup_bytes = self._lookup_bytes(words, head_words, positions)
        return Model(
            spec=spec,
            info=info,
            dtype=self.dtype,
            device=self.device,
            num_heads=stop - start,
            num_kv_heads=kv_stop - kv_start,
            embedding=self._embedding(words) if first else None,
            project_in=self._projection("project_in") if first else None,
            positions=positions,
            embedding_norm=layers.layer_norm("embedding_norm") if first and spec.embedding_norm else None,
            blocks=blocks,
            final_norm=layers.layer_norm("final_norm") if last and spec.final_norm else None,
            project_out=self._projection("project_out") if last else None,
            head=None if head_words is None else self._head(head_words),
            encoder=encoder,
            cross_attentions=cross_attentions,
            stack=build_stack(blocks, self.device),
            weight_bytes=self.reader.num_bytes,
            step_bytes=self.reader.num_bytes - encoder_bytes - lookup_bytes,
        )

    def encoder(self) -> Encoder:
        """All layers of an encoder, whatever the stage."""
        spec, layers = self.spec, self.layers(BlockBuilder)
        self._expect_outer_roles()
        return Encoder(
            embedding=self._embedding(self._words(needed=True)),
            positions=self._positions(),
            embedding_norm=layers.layer_norm("embedding_norm") if spec.embedding_norm else None,
            blocks=layers.encoder(range(spec.num_hidden_layers)),
            final_norm=layers.layer_norm("final_norm") if spec.final_norm else None,
        )

    def _encoder(self) -> Encoder | None:
        """Whole on every stage, so that nothing but the decoder's hidden states travels."""
        if self.spec.encoder is None:
            return None
        return replace(self, reader=self.reader.of_encoder(), spec=self.spec.encoder).encoder()

    def layers(self, kind: Callable[..., Layers], *more: object) -> Layers:
        """A builder of layers for this rank. Args: more: what `kind` takes beyond a BlockBuilder."""
        return kind(
            self.reader,
            self.spec,
            self.qkv_layout,
            self.mesh,
            self.group,
            self.num_positions,
            self.dtype,
            self.device,
            *more,
        )

    def _expect_outer_roles(self) -> None:
        for role in _OUTER_ROLES:
            self.reader.expect(role)

    # What lies around the blocks

    def _words(self, needed: bool) -> Tensor | None:
        """The word table, where this stage embeds or ties its head to it."""
        return self._vocabulary("embedding") if needed else None

    def _vocabulary(self, role: str) -> Tensor:
        columns = self.spec.embedding_size or self.spec.hidden_size
        return self.reader.vocabulary(role, ".weight", self.spec.vocab_size, columns)

    def _embedding(self, words: Tensor | None) -> Embedding:
        """The factor has the data type of the weights, as where such models were trained."""
        assert words is not None
        scale = torch.tensor(self.spec.embedding_scale, dtype=self.dtype).item()
        return Embedding(words, self.group, scale, self.spec.stream_scale)

    def _projection(self, role: str) -> Linear | None:
        outer, inner = self.spec.embedding_size, self.spec.hidden_size
        if not outer:
            return None
        rows, columns = (inner, outer) if role == "project_in" else (outer, inner)
        return Linear(DenseWeight(self.reader.table(role, rows, columns)), None)

    def _positions(self) -> Tensor | None:
        """[P, H] what is added to the embeddings."""
        count, width, offset = (
            self.spec.max_position_embeddings,
            self.spec.hidden_size,
            self.spec.position_offset,
        )
        if self.spec.positions is Positions.LEARNED:
            return self.reader.table("positions", count, width, offset).mul_(self.spec.stream_scale)
        if self.spec.positions in SINUSOIDAL_SPREADS:
            table = sinusoidal_table(count, width, offset, SINUSOIDAL_SPREADS[self.spec.positions])
            return table.to(self.device, self.dtype)
        return None

    def _head_words(self, words: Tensor | None) -> Tensor:
        words = words if self.spec.tie_word_embeddings else self._vocabulary("head")
        assert words is not None
        return words

    def _head(self, words: Tensor) -> Head:
        spec, bias = self.spec, None
        if spec.head_bias:
            bias = self.reader.head_bias(spec.vocab_size).float()
        return Head(
            DenseWeight(words), spec.vocab_size, self.group, bias, spec.logits_soft_cap, spec.logits_scale
        )

    def _lookup_bytes(self, words: Tensor | None, head_words: Tensor | None, positions: Tensor | None) -> int:
        """The word table is read whole where it is the head too."""
        tables = (None if words is head_words else words, positions)
        return sum(table.nbytes for table in tables if table is not None)
