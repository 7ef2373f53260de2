# SPDX-License-Identifier: BSD-3-Clause
"""A convolution over the tokens of each sequence, as a product with neighbours side by side."""

import torch
from torch import Tensor

from .encoder_attention import EncoderMetadata
from .heads import Dense


class Convolution:
    """act(convolution(x)), zeros around every sequence. (torch.nn.Conv1d with padding that keeps lengths)

    Args:
        dense: a product with [width * H] columns: for each neighbour, from the farthest before a token to
            the farthest behind it, the weights of its hidden state.
        reach: neighbours on each side.
    """

    def __init__(self, dense: Dense, reach: int) -> None:
        self._dense = dense
        self._reach = reach

    def __call__(self, x: Tensor, metadata: EncoderMetadata) -> Tensor:
        """[T, H] -> [T, H]"""
        offsets = range(-self._reach, self._reach + 1)
        return self._dense(torch.cat([_neighbours(x, metadata.positions, offset) for offset in offsets], 1))


def _neighbours(x: Tensor, positions: Tensor, offset: int) -> Tensor:
    """[T, H]: row t is row t + offset, where that belongs to the same sequence, else zeros."""
    is_same = positions.roll(-offset) == positions + offset
    return x.roll(-offset, 0) * is_same[:, None]
