# SPDX-License-Identifier: BSD-3-Clause
"""Normalisation, alone or fused with the residual sum before it."""

from torch import Tensor

from .. import ops


class RmsNorm:
    """Root mean square norm with a weight [H]."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self._weight, self._eps)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual += x in place; the norm of the sum."""
        return ops.add_rms_norm(x, residual, self._weight, self._eps)


class LayerNorm:
    """Layer norm with weight and bias [H]."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        self._weight = weight
        self._bias = bias
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self._weight, self._bias, self._eps)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual += x in place; the norm of the sum."""
        return ops.add_layer_norm(x, residual, self._weight, self._bias, self._eps)


NormLayer = RmsNorm | LayerNorm
