# SPDX-License-Identifier: BSD-3-Clause
"""Plays the runner for the decoder of one sequence, whose encoder's keys lie among its own."""

from dataclasses import replace

import torch
from driver import BLOCK_SIZE, Driver

from fastertransformer.models import CrossMetadata, EncoderMetadata, Model, StepMetadata

NUM_BLOCKS = 40


class EncoderDecoderDriver(Driver):
    """The encoder's blocks follow those of the decoder, and have garbage around them too."""

    def __init__(self, model: Model, max_len: int = 128) -> None:
        super().__init__(model, max_len)
        garbage = torch.full(model.kv_cache_shape(NUM_BLOCKS, BLOCK_SIZE), torch.nan, dtype=model.dtype)
        self.cross_table = torch.arange(self.cache.shape[2] + NUM_BLOCKS - 2, self.cache.shape[2], -1).int()
        self.cache = torch.cat((self.cache, garbage), 2)
        self.encoder_len = 0
        self.ia3_row = 0

    @torch.inference_mode()
    def encode(self, ids: list[int], before: list[int] | None = None) -> None:
        """Runs the encoder over `ids`, packed behind another input whose keys go elsewhere."""
        others = before or []
        self.encoder_len = len(ids)
        positions = torch.tensor([*range(len(others)), *range(len(ids))], dtype=torch.int32)
        slots = self.cross_table[positions.long() // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        slots[: len(others)] = -1
        ia3_rows = torch.tensor([1] * len(others) + [self.ia3_row] * len(ids), dtype=torch.int32)
        metadata = EncoderMetadata(
            positions=positions,
            cu_seqlens=torch.tensor([0, len(others), len(positions)], dtype=torch.int32),
            max_seqlen=max(len(others), len(ids)),
            ia3_rows=ia3_rows if self.ia3_row else None,
        )
        tokens = torch.tensor([*others, *ids], dtype=torch.int32)
        self.model.encode(tokens, metadata, slots.int(), self.cache)

    def metadata(self, count: int) -> StepMetadata:
        """The next `count` tokens."""
        cross = CrossMetadata(
            block_tables=self.cross_table.repeat(count, 1),
            seq_lens=torch.full((count,), self.encoder_len, dtype=torch.int32),
            cu_seqlens_q=torch.arange(count + 1, dtype=torch.int32),
            work=torch.zeros((2, count + 1), dtype=torch.int32),
            max_seqlen_k=self.encoder_len,
        )
        ia3_rows = torch.full((count,), self.ia3_row, dtype=torch.int32) if self.ia3_row else None
        return replace(super().metadata(count), cross=cross, ia3_rows=ia3_rows)
