# SPDX-License-Identifier: BSD-3-Clause
"""An encoder: bidirectional layers over sequences that lie one behind the other."""

from dataclasses import dataclass

from torch import Tensor

from ..layers.embedding import Embedding, add_positions
from ..layers.encoder_attention import EncoderMetadata
from ..layers.norm import NormLayer
from .block_builder import EncoderBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """All layers on one tensor-parallel rank."""

    embedding: Embedding
    positions: Tensor | None
    """[P, H]"""
    embedding_norm: NormLayer | None
    blocks: tuple[EncoderBlock, ...]
    final_norm: NormLayer | None

    def __call__(
        self, ids: Tensor, metadata: EncoderMetadata, replaced: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """[T] int32 -> [T, H], equal on all ranks. Args: replaced: see Embedding.with_rows."""
        hidden = self.embedding.with_rows(ids, replaced)
        if self.positions is not None:
            hidden = add_positions(hidden, self.positions, metadata.positions)
        hidden = hidden if self.embedding_norm is None else self.embedding_norm(hidden)
        x = None
        for block in self.blocks:
            x, hidden = block(x, hidden, metadata)
        assert x is not None
        self.blocks[-1].settle(hidden)
        return self.blocks[-1].finish(x, hidden, self.final_norm)
