# SPDX-License-Identifier: BSD-3-Clause
"""Weights in the model's own data type."""

from torch import Tensor
from torch.nn.functional import linear

from .. import ops


class DenseWeight:
    """[N, K], row-major as in the checkpoint."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.contiguous()
        self._skinny_rows = ops.skinny_rows(self.tensor)

    @property
    def num_bytes(self) -> int:
        return self.tensor.nbytes

    def matmul(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Few rows read the weights at memory speed; many are torch's own product."""
        if x.shape[0] <= self._skinny_rows:
            return ops.skinny_linear(x, self.tensor, bias)
        return linear(x, self.tensor, bias)

    def gated_matmul(self, x: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        if x.shape[0] <= self._skinny_rows:
            return ops.skinny_gated_linear(x, self.tensor, bias, kind)
        return ops.gated_activation(linear(x, self.tensor, bias), kind)

    def logits(self, x: Tensor) -> Tensor:
        if x.shape[0] <= self._skinny_rows:
            return ops.skinny_logits(x, self.tensor)
        return linear(x, self.tensor).float()
