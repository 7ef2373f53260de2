# SPDX-License-Identifier: BSD-3-Clause
"""Packed int8 weights, as the kernels of a GPU take them: bytes that become numbers of 16 bits by a mask.

Of four neighbours w0 .. w3 of a row, byte j holds |w_j| in its low 7 bits and the sign of the one before it,
w3 for j = 0, in its top bit. So the sign of a weight in byte 0 or 2 is bit 15 of its two bytes, where numbers
of 16 bits have theirs; of the others, once the four bytes are rotated by one (csrc/device/int8.cuh).
"""

import torch
from torch import Tensor

from .registry import has_kernel

_TOGETHER = 4


def takes_packed_int8(weight: Tensor) -> bool:
    """Whether the kernels where `weight` [N, K] lies want int8 packed; elsewhere it stays int8."""
    return weight.is_cuda and weight.shape[1] % _TOGETHER == 0 and has_kernel("cuda", "expand_int8")


def pack_int8(values: Tensor) -> Tensor:
    """[N, K] int8 in -127 .. 127 -> [N, K] uint8; K is a multiple of 4."""
    fours = _fours(values)
    signs = (fours < 0).roll(1, -1).to(torch.uint8)
    return fours.abs().to(torch.uint8).add_(signs.mul_(128)).flatten(-2)


def unpack_int8(values: Tensor) -> Tensor:
    """[N, K] int8 of packed ones; others as they are."""
    if values.dtype != torch.uint8:
        return values
    fours = _fours(values)
    magnitudes = (fours & 127).to(torch.int8)
    is_negative = (fours > 127).roll(-1, -1)
    return torch.where(is_negative, -magnitudes, magnitudes).flatten(-2)


def _fours(values: Tensor) -> Tensor:
    rows, columns = values.shape
    return values.reshape(rows, columns // _TOGETHER, _TOGETHER)
