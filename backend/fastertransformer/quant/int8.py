# SPDX-License-Identifier: BSD-3-Clause
"""Weight-only int8 (FasterTransformer's int8_mode 1): half the bytes, activations as they are."""

import torch
from torch import Tensor

from .. import ops
from .base import Weight, sum_of_products
from .dense import DenseWeight

_LARGEST = 127
_ROWS_AT_A_TIME = 1024
"""Bounds the memory that quantising a matrix takes beside it."""


class Int8Weight:
    """[N, K] as int8 with a float32 scale for each output row: w[n, k] = scale[n] * values[n, k].

    Args:
        values: [N, K] int8, packed (`ops.pack_int8`) where kernels take them so.
        dtype: of the activations.
    """

    def __init__(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        assert values.dtype in (torch.int8, torch.uint8)
        assert scale.dtype == torch.float32
        self.values = values.contiguous()
        self.scale = scale.contiguous()
        self._dtype = dtype
        self._skinny_rows = ops.skinny_int8_rows(self.values, dtype)
        self.fused_rows = ops.skinny_fused_rows(self.values, dtype)

    @classmethod
    def from_float(cls, weight: Tensor, row_max: Tensor) -> "Int8Weight":
        """The nearest multiples of scale = max |row| / 127, ties to the even one.

        Args:
            weight: [N, K], or some of the columns.
            row_max: [N], max |row| over all columns: parts that share a scale add up to the whole product.
        """
        scale = row_max.float() / _LARGEST
        # A row of zeros has scale 0, and zeros are what any other scale makes of it.
        divisor = torch.where(scale > 0, scale, 1.0)[:, None]
        is_packed = ops.takes_packed_int8(weight)
        dtype = torch.uint8 if is_packed else torch.int8
        values = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        for start in range(0, len(weight), _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            steps = (weight[rows].float() / divisor[rows]).round_().clamp_(-_LARGEST, _LARGEST)
            values[rows] = ops.pack_int8(steps.to(torch.int8)) if is_packed else steps
        return cls(values, scale, weight.dtype)

    @property
    def num_bytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes

    @property
    def num_rows(self) -> int:
        return len(self.scale)

    def expand(self) -> Tensor:
        """The weights as they multiply, [N, K] in the type of the activations."""
        result = torch.empty(self.values.shape, dtype=self._dtype, device=self.values.device)
        if self.values.is_cuda and self.values.dtype == torch.int8:
            # Rows that cannot be packed, or a build without kernels.
            return torch.mul(self.values, self.scale[:, None], out=result)
        ops.expand_int8(result, self.values, self.scale)
        return result

    def _dense(self) -> DenseWeight:
        return DenseWeight(self.expand(), is_lasting=False)

    def matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Few rows read the int8 values at memory speed; many are a product with expanded weights."""
        if x.shape[0] <= self._skinny_rows:
            return ops.skinny_linear_int8(x, self.values, self.scale, bias)
        return self._dense().matmul(x, bias)

    def activated_matmul(self, x: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        if x.shape[0] <= self.fused_rows:
            return self.activated_from(x, bias, kind, 0)
        if x.shape[0] <= self._skinny_rows:
            return ops.activation(self.matmul(x, bias), kind)
        return self._dense().activated_matmul(x, bias, kind)

    def joined(self, other: Weight) -> "Int8Weight | None":
        if not isinstance(other, Int8Weight) or self.fused_rows == 0:
            return None
        values, scale = torch.cat((self.values, other.values)), torch.cat((self.scale, other.scale))
        joint = Int8Weight(values, scale, self._dtype)
        sizes = [len(self.scale), len(other.scale)]
        self.values, other.values = torch.split(joint.values, sizes)
        self.scale, other.scale = torch.split(joint.scale, sizes)
        return joint

    def activated_from(self, x: Tensor, bias: Tensor | None, kind: str, first: int) -> Tensor:
        return ops.skinny_activated_linear_int8(x, self.values, self.scale, bias, kind, first)

    def matmul_sum(self, x: Tensor, other: Weight, other_x: Tensor, bias: Tensor | None) -> Tensor:
        """Two products, since each has scales of its own."""
        return sum_of_products(self, x, other, other_x, bias)

    def gated_matmul(self, x: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        if x.shape[0] <= self._skinny_rows:
            return ops.skinny_gated_linear_int8(x, self.values, self.scale, bias, kind)
        return self._dense().gated_matmul(x, bias, kind)

    def logits(self, x: Tensor) -> Tensor:
        if x.shape[0] <= self._skinny_rows:
            return ops.skinny_logits_int8(x, self.values, self.scale)
        return self._dense().logits(x)
