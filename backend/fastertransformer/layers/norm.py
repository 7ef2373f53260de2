# SPDX-License-Identifier: BSD-3-Clause
"""Normalisation, alone or fused with the residual sum before it."""

from torch import Tensor

from .. import ops


class RmsNorm:
    """Root mean square norm with a weight [H].

    Args:
        keeps_sum: whether somebody needs the sum that the norm is fused with.
    """

    bias = None

    def __init__(self, weight: Tensor, eps: float, keeps_sum: bool = True) -> None:
        self.weight = weight
        self.eps = eps
        self._keeps_sum = keeps_sum

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The norm of residual + x; `residual` becomes the sum where that is kept, and is of no use else."""
        return ops.add_rms_norm(x, residual, self.weight, self.eps, self._keeps_sum)


class LayerNorm:
    """Layer norm with weight and bias [H].

    Args:
        keeps_sum: whether somebody needs the sum that the norm is fused with.
    """

    def __init__(self, weight: Tensor, bias: Tensor, eps: float, keeps_sum: bool = True) -> None:
        self.weight = weight
        self.bias = bias
        self.eps = eps
        self._keeps_sum = keeps_sum

    def __call__(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The norm of residual + x; `residual` becomes the sum where that is kept, and is of no use else."""
        return ops.add_layer_norm(x, residual, self.weight, self.bias, self.eps, self._keeps_sum)


NormLayer = RmsNorm | LayerNorm
