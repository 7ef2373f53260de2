# SPDX-License-Identifier: BSD-3-Clause
"""A product with this rank's part of a weight."""

import torch
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


class JointLinear:
    """Two products of the same x, the second one activated, which for few rows are one."""

    def __init__(self, first: Linear, second: Linear) -> None:
        self._first, self._second = first, second
        self._joint = first.weight.joined(second.weight)
        self._bias = _side_by_side(first, second)

    def __call__(self, x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """[T, K] -> first(x) [T, N], act(second(x)) [T, M]"""
        if self._joint is None or x.shape[0] > self._joint.fused_rows:
            return self._first(x), self._second.activated(x, kind)
        num_first = self._first.weight.num_rows
        both = self._joint.activated_from(x, self._bias, kind, num_first)
        return both[:, :num_first], both[:, num_first:]


def _side_by_side(first: Linear, second: Linear) -> Tensor | None:
    """The bias of both; zeros of one that has none."""
    known = second.bias if first.bias is None else first.bias
    if known is None:
        return None
    zeros = known.new_zeros
    return torch.cat(
        [zeros(each.weight.num_rows) if each.bias is None else each.bias for each in (first, second)]
    )


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
