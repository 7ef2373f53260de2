# SPDX-License-Identifier: BSD-3-Clause
"""A product with this rank's part of a weight."""

from torch import Tensor

from ..quant.base import Weight


class Linear:
    """Column-parallel: the outputs of this rank. Row-parallel: a partial sum that the block reduces,
    which is why only tensor-parallel rank 0 is given the bias of a row-parallel product."""

    def __init__(self, weight: Weight, bias: Tensor | None) -> None:
        self.weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """[T, K] -> [T, N]"""
        return self.weight.matmul(x, self._bias)

    def gated(self, x: Tensor, kind: str) -> Tensor:
        """[T, K] -> act(first half of the outputs) * second half [T, N / 2]"""
        return self.weight.gated_matmul(x, self._bias, kind)
