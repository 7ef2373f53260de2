# SPDX-License-Identifier: BSD-3-Clause
"""Normalisation, alone or fused with the residual sum before it."""

from torch import Tensor

from .. import ops


class RmsNorm:
    """Root mean square norm with a weight [H]."""

    bias = None

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual += x in place; the norm of the sum."""
        return ops.add_rms_norm(x, residual, self.weight, self.eps)


class LayerNorm:
    """Layer norm with weight and bias [H]."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual += x in place; the norm of the sum."""
        return ops.add_layer_norm(x, residual, self.weight, self.bias, self.eps)


NormLayer = RmsNorm | LayerNorm
