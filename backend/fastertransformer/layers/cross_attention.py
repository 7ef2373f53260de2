# SPDX-License-Identifier: BSD-3-Clause
"""Attention of a decoder to its encoder's output, whose keys and values lie in the paged cache."""

import torch
from torch import Tensor

from .. import ops
from .attention import AttentionShape, StepMetadata
from .ia3 import Ia3
from .linear import Linear


class CrossAttention:
    """output(attention(q(x))) over the keys and values that `write` left.

    Args:
        ia3: of keys and values.
    """

    alibi_slopes = None
    rope_table = None

    def __init__(self, shape: AttentionShape, q: Linear, kv: Linear, output: Linear, ia3: Ia3 | None) -> None:
        self.shape = shape
        self.q = q
        self._kv = kv
        self.output = output
        self._ia3 = ia3

    def write(self, encoded: Tensor, slot_mapping: Tensor, kv_cache: Tensor, ia3_rows: Tensor | None) -> None:
        """Keys and values of the encoder's output, once for a whole generation.

        Args:
            encoded: [E, H]. slot_mapping: [E] int32, where each token's key and value go.
            ia3_rows: [E] as of Ia3.
        """
        kv = self._kv(encoded)
        if self._ia3 is not None:
            self._ia3(kv, ia3_rows)
        k, v = torch.chunk(kv.view(encoded.shape[0], -1, self.shape.head_dim), 2, 1)
        ops.kv_write(k, v, kv_cache[0], kv_cache[1], slot_mapping)

    def __call__(self, x: Tensor, metadata: StepMetadata, kv_cache: Tensor) -> Tensor:
        """[T, H] -> this rank's part of the sum [T, H]; every token sees all keys of its sequence."""
        cross, shape = metadata.cross, self.shape
        assert cross is not None
        attended = ops.paged_attention(
            self.q(x).view(x.shape[0], -1, shape.head_dim),
            kv_cache[0],
            kv_cache[1],
            cross.block_tables,
            cross.seq_lens,
            cross.cu_seqlens_q,
            cross.work,
            metadata.workspace,
            1,
            cross.max_seqlen_k,
            shape.scale,
            0,
            0.0,
            None,
            None,
        )
        return self.output(attended.view(x.shape[0], -1))
