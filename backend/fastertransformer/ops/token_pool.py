# SPDX-License-Identifier: BSD-3-Clause
"""The tokens of all running sequences, which never leave the device between the steps."""

from torch import Tensor

from .registry import op


@op(out=lambda token_pool, slots, positions: token_pool.new_empty(slots.shape))
def take_tokens(token_pool: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
    """token_pool[slots, positions]: [slots, positions] int32 at [T] int32 each -> [T] int32.

    Rows that only fill the batch read a place that exists, like slot 0, position 0.
    """
    return token_pool[slots.long(), positions.long()]


@op(out=None)
def put_tokens(token_pool: Tensor, slots: Tensor, positions: Tensor, tokens: Tensor) -> None:
    """token_pool[slots, positions] = tokens, in place; all [S] int32, no place twice.

    A slot of -1 marks a row that only fills the batch: it is left out.
    """
    rows = slots >= 0
    token_pool[slots[rows].long(), positions[rows].long()] = tokens[rows]
