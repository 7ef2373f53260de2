# SPDX-License-Identifier: BSD-3-Clause
"""What a small MLP adds to the result of a sublayer."""

from torch import Tensor

from ..parallel.comm import Communicator
from .mlp import Mlp
from .norm import NormLayer


class Adapter:
    """x + mlp(x), with a norm of what the MLP takes or of what it adds.

    Args:
        group: over which the MLP is split.
        before, behind: the norms, where there are any.
    """

    def __init__(
        self,
        mlp: Mlp,
        group: Communicator,
        before: NormLayer | None = None,
        behind: NormLayer | None = None,
    ) -> None:
        self._mlp = mlp
        self._group = group
        self._before = before
        self._behind = behind

    def __call__(self, x: Tensor) -> Tensor:
        """[T, H], whole on every rank -> the same"""
        taken = x if self._before is None else self._before(x)
        added = self._group.all_reduce(self._mlp(taken))
        return (added if self._behind is None else self._behind(added)).add_(x)
