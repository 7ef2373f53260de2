# SPDX-License-Identifier: BSD-3-Clause
"""Self-attention of encoders: every token sees its whole sequence, and nothing is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops
from .attention import rows_of
from .ia3 import Ia3
from .linear import Linear


@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """Collects what every layer's softmax gives, for the sequences whose clients want to see it."""

    spans: Sequence[tuple[int, int]]
    """[begin, end) of their tokens."""
    layers: list[Tensor] = field(default_factory=list)
    """[N, sum of squared lengths] float32 each"""

    def add(self, q: Tensor, k: Tensor, scale: float, relative_bias: Tensor | None) -> None:
        """Args: as of ops.encoder_attention."""
        maps = [_map(q[begin:end], k[begin:end], scale, relative_bias) for begin, end in self.spans]
        self.layers.append(torch.cat([each.flatten(1) for each in maps], 1))


def _map(q: Tensor, k: Tensor, scale: float, relative_bias: Tensor | None) -> Tensor:
    """[S, N, D] each -> [N, S, S]"""
    scores = q.float().transpose(0, 1) @ k.float().permute(1, 2, 0) * scale
    if relative_bias is not None:
        scores += ops.bias_by_distance(relative_bias, len(q))
    return scores.softmax(-1)


@dataclass(frozen=True, slots=True)
class EncoderMetadata:
    """T tokens of B sequences that lie one behind the other; tensors int32 on the device."""

    positions: Tensor
    """[T] of each token in its sequence"""
    cu_seqlens: Tensor
    """[B + 1]"""
    max_seqlen: int
    maps: AttentionMaps | None = None
    """Where somebody wants them."""
    ia3_rows: Tensor | None = None
    """[T] as of Ia3"""
    kept: Tensor | None = None
    """[S] indices into T of the tokens that are wanted behind the attention; None: all are."""


class EncoderAttention:
    """output(attention(qkv(x)))

    Args:
        relative_bias: [N, 2R + 1] float32 of this rank's heads, see ops.encoder_attention.
        ia3: of keys and values.
    """

    def __init__(
        self,
        head_dim: int,
        scale: float,
        qkv: Linear,
        output: Linear,
        relative_bias: Tensor | None,
        ia3: Ia3 | None,
    ) -> None:
        self._head_dim = head_dim
        self._scale = scale
        self._qkv = qkv
        self._output = output
        self._relative_bias = relative_bias
        self._ia3 = ia3

    def __call__(self, x: Tensor, metadata: EncoderMetadata) -> Tensor:
        """[T, H] -> this rank's part of the sum [S, H] of the tokens that are kept."""
        qkv = self._qkv(x)
        if self._ia3 is not None:
            self._ia3(qkv, metadata.ia3_rows)
        q, k, v = torch.chunk(qkv.view(x.shape[0], -1, self._head_dim), 3, 1)
        if metadata.maps is not None:
            metadata.maps.add(q, k, self._scale, self._relative_bias)
        attended = ops.encoder_attention(
            q, k, v, metadata.cu_seqlens, metadata.max_seqlen, self._scale, self._relative_bias
        )
        return self._output(rows_of(attended.view(x.shape[0], -1), metadata.kept))
