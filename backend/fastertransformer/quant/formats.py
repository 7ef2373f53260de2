# SPDX-License-Identifier: BSD-3-Clause
"""The formats by int8_mode: how the matrices of the layers are held once they are read."""

from collections.abc import Callable

from torch import Tensor

from .base import Weight
from .dense import DenseWeight
from .int8 import Int8Weight

Format = Callable[[Tensor, Callable[[], Tensor]], Weight]
"""(this rank's part of a matrix, what reads the whole rows that it is cut from) -> the part as it is held"""


def _dense(part: Tensor, _: Callable[[], Tensor]) -> Weight:
    return DenseWeight(part)


def _int8(part: Tensor, rows: Callable[[], Tensor]) -> Weight:
    return Int8Weight.from_float(part, rows().abs().amax(1))


FORMATS: dict[int, Format] = {0: _dense, 1: _int8}
