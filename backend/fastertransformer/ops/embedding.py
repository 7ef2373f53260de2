# SPDX-License-Identifier: BSD-3-Clause
"""Rows of a table by token id and by position."""

from torch import Tensor

from .registry import op


@op(out=lambda ids, weight: weight.new_empty((ids.shape[0], weight.shape[1])))
def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """weight[ids]: ids [T] int32, weight [V, H] -> [T, H]."""
    return weight[ids.long()]


@op(out=None)
def add_positions(hidden: Tensor, table: Tensor, positions: Tensor) -> None:
    """hidden += table[positions] in place: hidden [T, H], table [P, H], positions [T] int32."""
    hidden += table[positions.long()]
