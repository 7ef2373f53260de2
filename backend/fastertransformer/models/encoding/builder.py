# SPDX-License-Identifier: BSD-3-Clause
"""Puts the layers of one rank of an encoder together, from what models.builder has for all models."""

from dataclasses import dataclass

from torch import Tensor

from ...layers.embedding import Head
from ...layers.heads import Chain, Dense, SentenceEmbedding
from ...layers.linear import Linear
from ...quant.dense import DenseWeight
from ..block_builder import BlockBuilder
from ..builder import Builder
from ..spec import Positions, Residual
from ..transformer import CheckpointInfo
from ..weights import OUTSIDE
from .layers import LayerBuilder
from .model import ConvolvedBlock, EncoderHead, EncoderModel, InputEmbedding, PostBlock, PreStack
from .spec import EncodingSpec, LayerSpec, Width

_OUTER_ROLES = (
    "embedding",
    "positions",
    "token_types",
    "project_in",
    "embedding_norm",
    "relative",
    "relative_norm",
    "convolution",
    "convolution_norm",
    "final_norm",
    "decoder",
)
"""Belong to one stage, or are not needed."""


@dataclass(frozen=True, slots=True)
class EncoderBuilder(Builder):
    """One rank's part of an encoder."""

    encoding: EncodingSpec
    sentence: SentenceEmbedding
    sentence_width: int

    def encoder_model(self, info: CheckpointInfo) -> EncoderModel:
        spec, first = self.spec, self.mesh.is_first_stage
        self._expect_all()
        words = self._encoder_words()
        embedding = self._input_embedding(words) if first and self._embeds else None
        blocks = self._blocks(self.mesh.layers(spec.num_hidden_layers))
        heads = self._heads(words)
        return EncoderModel(
            spec=spec,
            encoding=self.encoding,
            info=info,
            dtype=self.dtype,
            device=self.device,
            embedding=embedding,
            blocks=blocks,
            heads=heads,
            sentence=self.sentence,
            sentence_width=self.sentence_width,
            weight_bytes=self.reader.num_bytes,
            step_bytes=self.reader.num_bytes - (0 if words is None else words.nbytes),
        )

    def _blocks(self, layers: range) -> tuple[PostBlock | ConvolvedBlock, ...] | tuple[PreStack]:
        if self.spec.residual is Residual.POST:
            return self.layers(LayerBuilder, self.encoding).blocks(layers)
        build, ends = self.layers(BlockBuilder), self.mesh.is_last_stage and self.spec.final_norm
        return (PreStack(build.encoder(layers), build.layer_norm("final_norm") if ends else None),)

    def _expect_all(self) -> None:
        """What another stage reads, or belongs to no head, may lie in the file all the same."""
        for role in _OUTER_ROLES:
            self.reader.expect(role)
        for head in self.encoding.heads:
            for layer in head.layers:
                self.reader.expect(layer.role)
                if layer.norm:
                    self.reader.expect(layer.norm)

    # Before the layers

    @property
    def _embedding_size(self) -> int:
        return self.spec.embedding_size or self.spec.hidden_size

    @property
    def _embeds(self) -> bool:
        """FasterTransformer's bert has no embeddings: its clients send hidden states."""
        return self.reader.has("embedding", ".weight")

    def _encoder_words(self) -> Tensor | None:
        """The word table, where this stage embeds, or has a head that is tied to it."""
        ties = any(
            layer.width is Width.VOCABULARY and not self._is_untied
            for head in self.encoding.present(self.reader.has)
            for layer in head.layers
        )
        needed = self.mesh.is_first_stage or (self.mesh.is_last_stage and ties)
        return self._words(needed and self._embeds)

    def _input_embedding(self, words: Tensor | None) -> InputEmbedding:
        spec, size = self.spec, self._embedding_size
        positions = token_types = None
        if spec.positions is Positions.LEARNED:
            positions = self.reader.table(
                "positions", spec.max_position_embeddings, size, spec.position_offset
            )
        if self.encoding.num_token_types:
            token_types = self.reader.table("token_types", self.encoding.num_token_types, size)
        return InputEmbedding(
            self._embedding(words),
            positions,
            token_types,
            self._projection("project_in"),
            self.layers(BlockBuilder).layer_norm("embedding_norm") if spec.embedding_norm else None,
        )

    # Heads

    def _heads(self, words: Tensor | None) -> dict[str, EncoderHead]:
        heads = {}
        for head in self.encoding.present(self.reader.has):
            last = head.layers[-1]
            chain = None
            if self.mesh.is_last_stage:
                chain = Chain([self._head_layer(layer, words) for layer in head.layers])
            heads[head.output] = EncoderHead(head.rows, self._width(last.width), chain)
        return heads

    @property
    def _is_untied(self) -> bool:
        """The vocabulary's logits have a table of their own."""
        return not self.spec.tie_word_embeddings and self.reader.has("decoder", ".weight")

    def _width(self, width: Width) -> int:
        return {
            Width.HIDDEN: self.spec.hidden_size,
            Width.EMBEDDING: self._embedding_size,
            Width.LABELS: len(self.encoding.labels),
            Width.TWO: 2,
            Width.VOCABULARY: self.spec.vocab_size,
        }[width]

    def _head_layer(self, layer: LayerSpec, words: Tensor | None) -> Dense | Head:
        if layer.width is Width.VOCABULARY:
            return self._vocabulary_head(layer, words)
        rows = self._width(layer.width)
        weight = self.reader.table(layer.role, rows, self.spec.hidden_size)
        bias = self.reader.vector(layer.role, ".bias", rows) if self.reader.has(layer.role, ".bias") else None
        norm = (
            self.layers(BlockBuilder).norm(layer.norm, self.spec.norm, rows, OUTSIDE) if layer.norm else None
        )
        return Dense(Linear(DenseWeight(weight), bias), layer.activation, norm)

    def _vocabulary_head(self, layer: LayerSpec, words: Tensor | None) -> Head:
        size = self.spec.vocab_size
        weight = self._vocabulary("decoder") if self._is_untied else words
        assert weight is not None
        role = "decoder" if self._is_untied and self.reader.has("decoder", ".bias") else layer.role
        bias = self.reader.vocabulary(role, ".bias", size, 0).float()
        return Head(DenseWeight(weight), size, self.group, bias)
