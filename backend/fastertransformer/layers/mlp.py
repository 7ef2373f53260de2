# SPDX-License-Identifier: BSD-3-Clause
"""The feed-forward part of a layer."""

from torch import Tensor

from .ia3 import Ia3
from .linear import Linear


class Mlp:
    """down(act(up(x))), or with a gate down(act(gate(x)) * up(x)) where `up` yields both.

    Args:
        ia3: of what goes into `down`.
    """

    def __init__(
        self, up: Linear, down: Linear, activation: str, gated: bool, ia3: Ia3 | None = None
    ) -> None:
        self.up = up
        self.down = down
        self.kind = activation
        self.is_gated = gated
        self._ia3 = ia3

    @property
    def is_plain(self) -> bool:
        """Whether `down` takes what `up` leaves."""
        return self._ia3 is None

    def __call__(self, x: Tensor, ia3_rows: Tensor | None = None) -> Tensor:
        """[T, H] -> this rank's part of the sum [T, H]. Args: ia3_rows: as of Ia3."""
        return self.down(self.inner(x, ia3_rows))

    def inner(self, x: Tensor, ia3_rows: Tensor | None = None) -> Tensor:
        """[T, H] -> what goes into `down` [T, I]"""
        inner = self.up.gated(x, self.kind) if self.is_gated else self.up.activated(x, self.kind)
        return self.scaled(inner, ia3_rows)

    def scaled(self, inner: Tensor, ia3_rows: Tensor | None) -> Tensor:
        """What `up` leaves [T, I] -> what goes into `down`"""
        if self._ia3 is not None:
            self._ia3(inner, ia3_rows)
        return inner
