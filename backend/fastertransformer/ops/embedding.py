# SPDX-License-Identifier: BSD-3-Clause
"""Rows of a table by token id."""

from torch import Tensor

from .registry import op


@op(out=lambda ids, weight: weight.new_empty((ids.shape[0], weight.shape[1])))
def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """weight[ids]: ids [T] int32, weight [V, H] -> [T, H]."""
    return weight[ids.long()]
