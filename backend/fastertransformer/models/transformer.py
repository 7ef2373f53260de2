# SPDX-License-Identifier: BSD-3-Clause
"""The decoder-only transformer: one block for every family, this rank's layers of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.attention import Attention, StepMetadata
from ..layers.embedding import Embedding, Head, add_positions
from ..layers.mlp import Mlp
from ..layers.norm import NormLayer
from ..parallel.comm import Communicator
from .spec import ModelSpec


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What clients and the engine need to know about a checkpoint."""

    model_type: str
    vocab_size: int
    max_position_embeddings: int
    start_id: int
    end_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A layer with a norm before each sublayer. Sublayers return this rank's part of a sum."""

    norm1: NormLayer
    attention: Attention
    norm2: NormLayer
    mlp: Mlp
    group: Communicator

    def __call__(
        self, x: Tensor | None, residual: Tensor, metadata: StepMetadata, kv_cache: Tensor
    ) -> Tensor:
        """Adds `x`, what the layer before left, to `residual` in place; returns what is left to add."""
        normed = self.norm1(residual) if x is None else self.norm1.add(x, residual)
        attended = self.group.all_reduce(self.attention(normed, metadata, kv_cache))
        return self.group.all_reduce(self.mlp(self.norm2.add(attended, residual)))


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
    """Of them, what a decode step reads: all but tables from which it takes single rows."""
    num_heads: int
    num_kv_heads: int
    """On this rank."""
    blocks: tuple[Block, ...]
    embedding: Embedding | None
    """On the first stage."""
    positions: Tensor | None
    """[P, H] of models with learned positions, on the first stage."""
    final_norm: NormLayer | None
    head: Head | None
    """Norm and head on the last stage."""

    def kv_cache_shape(self, num_blocks: int, block_size: int) -> tuple[int, ...]:
        """[layers of this stage, keys and values, num_blocks, K, block_size, D]"""
        return (len(self.blocks), 2, num_blocks, self.num_kv_heads, block_size, self.spec.head_dim)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """[T] int32 ids and positions -> [T, H]; first stage only."""
        assert self.embedding is not None
        hidden = self.embedding(ids)
        return hidden if self.positions is None else add_positions(hidden, self.positions, positions)

    def forward(self, hidden: Tensor, metadata: StepMetadata, kv_cache: Tensor) -> Tensor:
        """[T, H] through the layers of this stage: what is left to add to `hidden`, which is overwritten."""
        x = None
        for block, layer_cache in zip(self.blocks, kv_cache, strict=True):
            x = block(x, hidden, metadata, layer_cache)
        assert x is not None
        return x

    def logits(self, x: Tensor, hidden: Tensor) -> Tensor:
        """[S, H] each, as `forward` leaves them -> [S, V] float32, equal on all ranks; last stage only."""
        assert self.final_norm is not None
        assert self.head is not None
        return self.head(self.final_norm.add(x, hidden))
