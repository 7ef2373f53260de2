# SPDX-License-Identifier: BSD-3-Clause
"""Self-attention of encoders: every token sees its whole sequence, and nothing is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from .linear import Linear


@dataclass(frozen=True, slots=True)
class EncoderMetadata:
    """T tokens of B sequences that lie one behind the other; tensors int32 on the device."""

    positions: Tensor
    """[T] of each token in its sequence"""
    cu_seqlens: Tensor
    """[B + 1]"""
    max_seqlen: int


class EncoderAttention:
    """output(attention(qkv(x)))

    Args:
        relative_bias: [N, 2R + 1] float32 of this rank's heads, see ops.encoder_attention.
    """

    def __init__(
        self, head_dim: int, scale: float, qkv: Linear, output: Linear, relative_bias: Tensor | None
    ) -> None:
        self._head_dim = head_dim
        self._scale = scale
        self._qkv = qkv
        self._output = output
        self._relative_bias = relative_bias

    def __call__(self, x: Tensor, metadata: EncoderMetadata) -> Tensor:
        """[T, H] -> this rank's part of the sum [T, H]."""
        q, k, v = torch.chunk(self._qkv(x).view(x.shape[0], -1, self._head_dim), 3, 1)
        attended = ops.encoder_attention(
            q, k, v, metadata.cu_seqlens, metadata.max_seqlen, self._scale, self._relative_bias
        )
        return self._output(attended.view(x.shape[0], -1))
