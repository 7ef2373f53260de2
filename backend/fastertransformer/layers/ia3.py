# SPDX-License-Identifier: BSD-3-Clause
"""IA3: tasks of one model, which differ in factors of keys, values and the MLP's inner activations."""

import torch
from torch import Tensor
from torch.nn.functional import embedding


class Ia3:
    """Multiplies the last N columns of a product by the factors of each token's task.

    (Liu et al., arXiv 2205.05638)

    Args:
        factors: [n, N] of n tasks.
    """

    def __init__(self, factors: Tensor) -> None:
        self._table = torch.cat((torch.ones_like(factors[:1]), factors))

    def __call__(self, x: Tensor, rows: Tensor | None) -> None:
        """[T, at least N], in place.

        Args:
            rows: [T] int32, 1 + the task of each token, 0 for none; None: no token has a task.
        """
        if rows is not None:
            x[:, -self._table.shape[1] :].mul_(embedding(rows, self._table))
