# SPDX-License-Identifier: BSD-3-Clause
"""The sum of two sublayers."""

from torch import Tensor

from .registry import op


@op(out=None)
def add(x: Tensor, y: Tensor) -> None:
    """x += y in place, [T, H] each."""
    x.add_(y)
