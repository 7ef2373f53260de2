# SPDX-License-Identifier: BSD-3-Clause
"""The feed-forward part of a layer."""

from torch import Tensor

from .. import ops
from .linear import Linear


class Mlp:
    """down(act(up(x))), or with a gate down(act(gate(x)) * up(x)) where `up` yields both."""

    def __init__(self, up: Linear, down: Linear, activation: str, gated: bool) -> None:
        self.up = up
        self.down = down
        self.kind = activation
        self._gated = gated

    def __call__(self, x: Tensor) -> Tensor:
        """[T, H] -> this rank's part of the sum [T, H]."""
        if self._gated:
            return self.down(self.up.gated(x, self.kind))
        return self.down(ops.activation(self.up(x), self.kind))
