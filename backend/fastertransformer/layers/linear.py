# SPDX-License-Identifier: BSD-3-Clause
"""A product with this rank's part of a weight."""

from torch import Tensor

from ..quant.base import Weight


class Linear:
    """Column-parallel: the outputs of this rank. Row-parallel: a partial sum that the block reduces,
    which is why only tensor-parallel rank 0 is given the bias of a row-parallel product."""

    def __init__(self, weight: Weight, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """[T, K] -> [T, N]"""
        return self.weight.matmul(x, self.bias)

    def activated(self, x: Tensor, kind: str) -> Tensor:
        """[T, K] -> act(outputs) [T, N]"""
        return self.weight.activated_matmul(x, self.bias, kind)

    def gated(self, x: Tensor, kind: str) -> Tensor:
        """[T, K] -> act(first half of the outputs) * second half [T, N / 2]"""
        return self.weight.gated_matmul(x, self.bias, kind)


class LinearSum:
    """Two products that are added."""

    def __init__(self, first: Linear, second: Linear) -> None:
        self._first = first.weight
        self._second = second.weight
        biases = [linear.bias for linear in (first, second) if linear.bias is not None]
        self._bias = sum(biases[1:], start=biases[0]) if biases else None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """x [T, K], y [T, L] -> first(x) + second(y) [T, N]"""
        return self._first.matmul_sum(x, self._second, y, self._bias)
