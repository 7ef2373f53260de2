# SPDX-License-Identifier: BSD-3-Clause
"""Weights in the model's own data type."""

import functools

import torch
from torch import Tensor

from .. import ops
from .base import Weight, sum_of_products


class DenseWeight:
    """[N, K], row-major as in the checkpoint.

    Args:
        is_lasting: no kernel just launched makes it. Some products read weights before the kernels in front
            of them have ended.
    """

    def __init__(self, tensor: Tensor, is_lasting: bool = True) -> None:
        self.tensor = tensor.contiguous()
        self._is_lasting = is_lasting
        self._skinny_rows = ops.skinny_rows(self.tensor)
        self.fused_rows = ops.skinny_fused_rows(self.tensor, self.tensor.dtype)

    # Asked when it matters: int8 weights are expanded for one product.
    @functools.cached_property
    def _tile_rows(self) -> int:
        return ops.tile_rows(self.tensor) if self._is_lasting else 0

    @functools.cached_property
    def _activated_rows(self) -> int | None:
        return ops.activated_rows(self.tensor)

    @functools.cached_property
    def _gated_rows(self) -> int | None:
        return ops.gated_rows(self.tensor)

    @property
    def num_bytes(self) -> int:
        return self.tensor.nbytes

    @property
    def num_rows(self) -> int:
        return len(self.tensor)

    def matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Few rows read the weights at memory speed; many are a library's product."""
        if x.shape[0] <= self._skinny_rows:
            return ops.skinny_linear(x, self.tensor, bias)
        if x.shape[0] <= self._tile_rows:
            return ops.tile_linear(x, self.tensor, bias)
        return ops.library_linear(x, self.tensor, bias)

    def activated_matmul(self, x: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        if x.shape[0] <= self.fused_rows:
            return self.activated_from(x, bias, kind, 0)
        if x.shape[0] <= self._skinny_rows:
            return ops.activation(self.matmul(x, bias), kind)
        if x.shape[0] <= self._tile_rows:
            return ops.tile_activated_linear(x, self.tensor, bias, kind)
        if not ops.library_activates(x, bias, kind) and _are_many(x, self._activated_rows):
            return ops.activated_linear(x, self.tensor, bias, kind)
        return ops.library_activated_linear(x, self.tensor, bias, kind)

    def joined(self, other: Weight) -> "DenseWeight | None":
        if not isinstance(other, DenseWeight) or self.fused_rows == 0:
            return None
        joint = DenseWeight(torch.cat((self.tensor, other.tensor)))
        self.tensor, other.tensor = torch.split(joint.tensor, [len(self.tensor), len(other.tensor)])
        return joint

    def activated_from(self, x: Tensor, bias: Tensor | None, kind: str, first: int) -> Tensor:
        return ops.skinny_activated_linear(x, self.tensor, bias, kind, first)

    def matmul_sum(self, x: Tensor, other: Weight, other_x: Tensor, bias: Tensor | None) -> Tensor:
        """Few rows on a GPU are one product; of many, cuBLAS adds the second one to the first."""
        if isinstance(other, DenseWeight):
            if x.shape[0] <= min(self.fused_rows, other.fused_rows):
                return ops.skinny_linear_sum(x, self.tensor, other_x, other.tensor, bias)
            if x.is_cuda and x.shape[0] > max(self._skinny_rows, other._skinny_rows):
                return ops.library_linear(x, self.tensor, bias).addmm_(other_x, other.tensor.T)
        return sum_of_products(self, x, other, other_x, bias)

    def gated_matmul(self, x: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        if x.shape[0] <= self._skinny_rows:
            return ops.skinny_gated_linear(x, self.tensor, bias, kind)
        if bias is None and _are_many(x, self._gated_rows):
            return ops.gated_linear(x, self.tensor, kind)
        return ops.gated_activation(ops.library_linear(x, self.tensor, bias), kind)

    def logits(self, x: Tensor) -> Tensor:
        if x.shape[0] <= self._skinny_rows:
            return ops.skinny_logits(x, self.tensor)
        return ops.library_logits(x, self.tensor)


def _are_many(x: Tensor, rows: int | None) -> bool:
    return rows is not None and x.shape[0] >= rows
