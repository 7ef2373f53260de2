# SPDX-License-Identifier: BSD-3-Clause
"""Token embedding and output head with the vocabulary split over the tensor-parallel ranks."""

import torch
from torch import Tensor

from .. import ops
from ..parallel.comm import Communicator
from ..quant.base import Weight


class Embedding:
    """Rows [rank * R, (rank + 1) * R) of the table, times `scale`; the ranks' results add up.

    Args:
        stream_scale: also multiplies all that is yielded.
    """

    def __init__(
        self, weight: Tensor, group: Communicator, scale: float = 1.0, stream_scale: float = 1.0
    ) -> None:
        self._weight = weight
        self._group = group
        self._scale = scale * stream_scale
        self._stream_scale = stream_scale

    def __call__(self, ids: Tensor) -> Tensor:
        """[T] int32 -> [T, H]"""
        rows = self._rows(ids)
        return rows if self._scale == 1.0 else rows.mul_(self._scale)

    def with_rows(self, ids: Tensor, replaced: tuple[Tensor, Tensor] | None) -> Tensor:
        """The same, where some ids are no words.

        Args:
            replaced: indices into T [N] int64, and rows [N, H] in place of what the table would give
                (transformers' `inputs_embeds`).
        """
        if replaced is None:
            return self(ids)
        hidden = self(ids.clamp(min=0))
        hidden[replaced[0]] = (replaced[1] * self._stream_scale).to(hidden.dtype)
        return hidden

    def _rows(self, ids: Tensor) -> Tensor:
        if self._group.size == 1:
            return ops.embedding(ids, self._weight)
        rows = self._weight.shape[0]
        local = ids - self._group.rank * rows
        mine = (local >= 0) & (local < rows)
        found = ops.embedding(torch.where(mine, local, 0), self._weight)
        return self._group.all_reduce(found * mine[:, None])


def add_positions(hidden: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """`hidden` [T, H] after table[positions] was added to it in place; positions [T] int32."""
    ops.add_positions(hidden, table, positions)
    return hidden


class Head:
    """Logits of this rank's rows of the vocabulary, gathered from all ranks; padding rows cut off."""

    def __init__(
        self,
        weight: Weight,
        vocab_size: int,
        group: Communicator,
        bias: Tensor | None = None,
        soft_cap: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        self._weight = weight
        self._vocab_size = vocab_size
        self._group = group
        self._bias = None if bias is None else bias.float()
        self._soft_cap = soft_cap
        self._scale = scale

    def __call__(self, hidden: Tensor) -> Tensor:
        """[S, H] -> [S, V] float32"""
        logits = self._weight.logits(hidden)
        if self._scale != 1.0:
            logits *= self._scale
        if self._bias is not None:
            logits += self._bias
        if self._soft_cap:
            logits.div_(self._soft_cap).tanh_().mul_(self._soft_cap)
        return self._group.all_gather(logits, 1)[:, : self._vocab_size].contiguous()
