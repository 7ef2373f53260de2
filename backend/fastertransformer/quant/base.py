# SPDX-License-Identifier: BSD-3-Clause
"""What a layer knows of its weight: how to multiply with it. Formats differ in what lies behind that."""

from typing import Protocol

from torch import Tensor

from .. import ops


class Weight(Protocol):
    """A matrix [N, K] in some format."""

    @property
    def num_bytes(self) -> int: ...

    @property
    def num_rows(self) -> int: ...

    def matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [M, K] -> x @ weight^T + bias [M, N]."""
        ...

    def activated_matmul(self, x: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        """x [M, K] -> act(x @ weight^T + bias) [M, N]; kinds of act: those of ops.activation."""
        ...

    @property
    def fused_rows(self) -> int:
        """Up to how many rows one product beats several; 0 where never."""
        ...

    def joined(self, other: "Weight") -> "Weight | None":
        """[N + M, K] of this and another one [M, K], which both are parts of from now on; None where formats
        differ, or where no number of rows gains by it."""
        ...

    def activated_from(self, x: Tensor, bias: Tensor | None, kind: str, first: int) -> Tensor:
        """`activated_matmul` of up to `fused_rows` rows; columns before `first` are not activated."""
        ...

    def matmul_sum(self, x: Tensor, other: "Weight", other_x: Tensor, bias: Tensor | None) -> Tensor:
        """x [M, K], other [N, L], other_x [M, L] -> x @ weight^T + other_x @ other^T + bias [M, N]."""
        ...

    def gated_matmul(self, x: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        """x [M, K] -> act(gate) * up [M, N / 2] with [gate, up] = x @ weight^T + bias.

        Kinds of act: those of ops.gated_activation.
        """
        ...

    def logits(self, x: Tensor) -> Tensor:
        """x [M, K] -> x @ weight^T [M, N] in float32."""
        ...


def sum_of_products(weight: Weight, x: Tensor, other: Weight, other_x: Tensor, bias: Tensor | None) -> Tensor:
    """`Weight.matmul_sum` one product after the other, which any two formats can."""
    result = weight.matmul(x, bias)
    ops.add(result, other.matmul(other_x, None))
    return result
