# SPDX-License-Identifier: BSD-3-Clause
"""Self-attention of DeBERTa: content meets relative positions too. (He et al., arXiv 2006.03654)"""

import torch
from torch import Tensor

from .. import ops
from .attention import rows_of
from .encoder_attention import EncoderMetadata
from .linear import Linear


class DisentangledAttention:
    """output(attention(qkv(x)))

    Args:
        buckets: [2M - 1] int32 on the device: the row of `position_keys` and `position_queries` for a query
            at a distance of -(M - 1) to M - 1 behind its key; ascending.
        position_keys, position_queries: [N, R, D] of this rank's heads, products of the relative embeddings;
            None leaves their part of the scores out.
    """

    def __init__(
        self,
        head_dim: int,
        scale: float,
        qkv: Linear,
        output: Linear,
        buckets: Tensor,
        position_keys: Tensor | None,
        position_queries: Tensor | None,
    ) -> None:
        self._head_dim = head_dim
        self._scale = scale
        self._qkv = qkv
        self._output = output
        self._buckets = buckets
        self._host_buckets = buckets.tolist()
        self._position_keys = position_keys
        self._position_queries = position_queries

    def __call__(self, x: Tensor, metadata: EncoderMetadata) -> Tensor:
        """[T, H] -> this rank's part of the sum [S, H] of the tokens that are kept.

        Of the positions, those that the longest sequence reaches are multiplied.
        """
        q, k, v = torch.chunk(self._qkv(x).view(x.shape[0], -1, self._head_dim), 3, 1)
        middle, reach = len(self._host_buckets) // 2, metadata.max_seqlen - 1
        first, last = self._host_buckets[middle - reach], self._host_buckets[middle + reach]
        attended = ops.disentangled_attention(
            q,
            k,
            v,
            _scores(q, self._position_keys, first, last + 1),
            _scores(k, self._position_queries, first, last + 1),
            self._buckets[middle - reach : middle + reach + 1] - first,
            metadata.cu_seqlens,
            metadata.max_seqlen,
            self._scale,
        )
        return self._output(rows_of(attended.view(x.shape[0], -1), metadata.kept))


def _scores(x: Tensor, table: Tensor | None, first: int, end: int) -> Tensor | None:
    """[T, N, D] with rows [first, end) of [N, R, D] -> [N, T, end - first]"""
    if table is None:
        return None
    return torch.bmm(x.transpose(0, 1), table[:, first:end].transpose(1, 2))
