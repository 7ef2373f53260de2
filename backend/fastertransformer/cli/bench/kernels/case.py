# SPDX-License-Identifier: BSD-3-Clause
"""One op in one size: how to make its arguments, and what it costs at least."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....ops.registry import OPS
from ..timing import Call

Arguments = tuple[Any, ...]


class Inputs:
    """Random tensors of one data type on one device. Never zeros: they are computed faster."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self._generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        made = torch.randn(shape, generator=self._generator, device=self.device)
        return made.to(dtype or self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Float32 in [0, 1)."""
        return torch.rand(shape, generator=self._generator, device=self.device)

    def integers(self, below: int, *shape: int) -> Tensor:
        """Int32 in [0, below)."""
        made = torch.randint(below, shape, generator=self._generator, device=self.device)
        return made.int()

    def permutation(self, size: int) -> Tensor:
        """Int32: every number below `size` once."""
        return torch.randperm(size, generator=self._generator, device=self.device).int()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`num_bytes` read and written, and `flops` done, by whoever computes this."""

    op: str
    sizes: str
    make: Callable[[Inputs], Arguments]
    """Arguments of the op."""
    num_bytes: int
    flops: int = 0
    make_peer: Callable[[Inputs], Call] | None = None
    """What one would call in torch; None: the op's body."""
    is_taken: Callable[[Arguments], bool] = lambda _: True
    """Whether the device's kernel takes such arguments, where there is one."""
    capturable: bool = True
    """Whether the peer reads nothing back from the device."""

    def peer(self, inputs: Inputs) -> Call:
        """A call of the peer with fresh arguments."""
        if self.make_peer is not None:
            return self.make_peer(inputs)
        return partial(OPS[self.op].body, *self.make(inputs))
