# SPDX-License-Identifier: BSD-3-Clause
"""The transformer: this rank's layers of the decoder, and the encoder that they attend to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..layers.attention import StepMetadata, rows_of
from ..layers.cross_attention import CrossAttention
from ..layers.decoder_stack import DecoderStack
from ..layers.embedding import Embedding, Head, add_positions
from ..layers.encoder_attention import EncoderMetadata
from ..layers.linear import Linear
from ..layers.norm import NormLayer
from .block_builder import DecoderBlock
from .encoder import Encoder
from .spec import ModelSpec


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What clients and the engine need to know about a checkpoint."""

    model_type: str
    vocab_size: int
    max_position_embeddings: int
    start_id: int
    end_ids: tuple[int, ...]
    forced_ids: tuple[int, ...] = ()
    """What every output begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One pipeline stage of a model on one tensor-parallel rank."""

    spec: ModelSpec
    info: CheckpointInfo
    dtype: torch.dtype
    device: torch.device
    weight_bytes: int
    """On this rank."""
    step_bytes: int
    """Of them, what a decode step reads: all but tables from which it takes single rows. Of experts, all."""
    num_heads: int
    num_kv_heads: int
    """On this rank."""
    embedding: Embedding | None
    project_in: Linear | None
    positions: Tensor | None
    """[P, H]"""
    embedding_norm: NormLayer | None
    """On the first stage, as far as the model has them."""
    blocks: tuple[DecoderBlock, ...]
    final_norm: NormLayer | None
    project_out: Linear | None
    head: Head | None
    """On the last stage, as far as the model has them."""
    encoder: Encoder | None = None
    """On every stage, whole."""
    cross_attentions: tuple[CrossAttention, ...] = ()
    """Of this stage's layers, in their order."""
    stack: DecoderStack | None = None
    """`blocks` as one kernel for steps of few tokens, where there is one for them."""

    def kv_cache_shape(self, num_blocks: int, block_size: int) -> tuple[int, ...]:
        """[layers of this stage, keys and values, num_blocks, K, block_size, D]"""
        return (len(self.blocks), 2, num_blocks, self.num_kv_heads, block_size, self.spec.head_dim)

    @property
    def layer_bytes(self) -> int:
        """What a step reads of weights for each of this stage's layers, embedding and head shared out."""
        return self.step_bytes // len(self.blocks)

    @property
    def is_capturable(self) -> bool:
        """Whether a step asks the device nothing, so that a graph can hold it."""
        return all(block.is_capturable for block in self.blocks)

    @property
    def embedding_size(self) -> int:
        """Width of the word table's rows."""
        return self.spec.embedding_size or self.spec.hidden_size

    def embed(self, ids: Tensor, positions: Tensor, replaced: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[T] int32 ids and positions -> [T, H]; first stage only.

        Args:
            replaced: indices into T [N], whose ids are no words, and their rows [N, E] in place of the word
                table's (transformers' `inputs_embeds`).
        """
        assert self.embedding is not None
        hidden = self.embedding.with_rows(ids, replaced)
        hidden = hidden if self.project_in is None else self.project_in(hidden)
        hidden = hidden if self.positions is None else add_positions(hidden, self.positions, positions)
        return hidden if self.embedding_norm is None else self.embedding_norm(hidden)

    def encode(
        self,
        ids: Tensor,
        metadata: EncoderMetadata,
        slot_mapping: Tensor,
        layer_caches: Sequence[Tensor],
        replaced: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """[E] int32 ids of packed inputs: leaves in the cache what the layers of this stage attend to.

        Args:
            replaced: as for `embed`.
        """
        assert self.encoder is not None
        encoded = self.encoder(ids, metadata, replaced)
        for attention, layer_cache in zip(self.cross_attentions, layer_caches, strict=True):
            attention.write(encoded, slot_mapping, layer_cache, metadata.ia3_rows)

    def forward(
        self,
        hidden: Tensor,
        metadata: StepMetadata,
        layer_caches: Sequence[Tensor],
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """[T, H] through the layers of this stage; `hidden` is overwritten.

        Args:
            kept: [S] int32 rows that are wanted, in any order, or none; None: all, in theirs.

        Returns:
            What is left to add, and what it is to be added to, [S, H] each. The former may be this rank's
            part of a sum, which `summed` and `logits` make whole.
        """
        if self.stack is not None and self.stack.takes(hidden, metadata, layer_caches):
            left, stream = self.stack(hidden, metadata, layer_caches)
            return rows_of(left, kept), rows_of(stream, kept)
        # Cross-attention's metadata is of every token, and the prompts of such decoders are short.
        narrows = kept is not None and not self.cross_attentions
        last = replace(metadata, kept=kept) if narrows else metadata
        x = None
        for block, layer_cache in zip(self.blocks, layer_caches, strict=True):
            x, hidden = block(x, hidden, last if block is self.blocks[-1] else metadata, layer_cache)
        assert x is not None
        self.blocks[-1].settle(hidden)
        return (x, hidden) if narrows else (rows_of(x, kept), rows_of(hidden, kept))

    def summed(self, x: Tensor) -> Tensor:
        """What `forward` left to add [S, H], whole on every rank; `x` is overwritten."""
        return self.blocks[-1].sharers.all_reduce(x)

    def logits(self, x: Tensor, hidden: Tensor) -> Tensor:
        """[S, H] each, as `forward` leaves them -> [S, V] float32, equal on all ranks; last stage only.

        Both are overwritten.
        """
        assert self.head is not None
        hidden = self.blocks[-1].finish(x, hidden, self.final_norm)
        return self.head(hidden if self.project_out is None else self.project_out(hidden))
