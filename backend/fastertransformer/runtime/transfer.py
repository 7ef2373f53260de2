# SPDX-License-Identifier: BSD-3-Clause
"""Host arrays to the device and results back, without a wait where the device is a GPU.

Pinned memory for what is small, and that is every step's plan and its tokens, is taken once and used again.
For the rest it comes from torch's caching host allocator, which takes longer and hands a block out again only
when the copies that use it are done.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..engine.batch import Int32Array

_NUM_SLOTS = 16
"""Copies to a device that may be on their way before one waits: those of several steps."""
_LARGEST_SLOT = 1 << 18
"""int32, 1 MiB"""
_LANDING_SIZE = 1 << 14
"""Numbers of a small result. They are copied once more on the host, which must take no longer than torch."""


class _Slot:
    """Pinned memory for one copy after the other, each of which ends before the next one may begin."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._event = torch.Event(device)
        self.resize(size, dtype)

    def resize(self, size: int, dtype: torch.dtype) -> None:
        """Takes other memory, with nothing in it."""
        with torch.inference_mode(False):  # so that it can be written in any mode
            self.tensor = torch.empty(size, dtype=dtype, pin_memory=True)
        self.array: npt.NDArray[Any] = self.tensor.numpy()

    def started(self) -> None:
        """A copy that uses the memory is in the current stream."""
        self._event.record()

    def wait(self) -> None:
        """Until that copy has ended; not at all before the first."""
        self._event.synchronize()


class _Staging:
    """Slots in turn for copies to a device; whoever gets one writes it at once and starts the copy."""

    def __init__(self, device: torch.device) -> None:
        self._slots = itertools.cycle([_Slot(0, torch.int32, device) for _ in range(_NUM_SLOTS)])

    def take(self, size: int) -> _Slot:
        """One of at least `size` int32 that no copy reads any more."""
        slot = next(self._slots)
        slot.wait()
        if len(slot.array) < size:
            slot.resize(1 << (size - 1).bit_length(), torch.int32)
        return slot


_staging = cache(_Staging)
"""Of each device."""
_landings: defaultdict[tuple[torch.device, torch.dtype], list[_Slot]] = defaultdict(list)
"""Slots that nobody holds, for results of each device and type."""


def to_device(arrays: Sequence[Int32Array], device: torch.device, out: Tensor | None = None) -> Tensor:
    """All arrays side by side in one int32 tensor, copied once; into `out` where that is given."""
    size = sum([array.size for array in arrays])
    return filled(size, lambda memory: np.concatenate([a.ravel() for a in arrays], out=memory), device, out)


def filled(
    size: int, fill: Callable[[Int32Array], object], device: torch.device, out: Tensor | None = None
) -> Tensor:
    """`size` int32 that `fill` writes on the host, copied once; into `out` where that is given.

    The memory that `fill` gets is not its own beyond the call.
    """
    if device.type != "cuda" or size > _LARGEST_SLOT:
        staging = torch.empty(size, dtype=torch.int32, pin_memory=device.type == "cuda")
        fill(staging.numpy())
        return _copied(staging, device, out)
    slot = _staging(device).take(size)
    fill(slot.array[:size])
    copy = _copied(slot.tensor[:size], device, out)
    slot.started()
    return copy


def _copied(staging: Tensor, device: torch.device, out: Tensor | None) -> Tensor:
    if out is None:
        return staging.to(device, non_blocking=True)
    return out.copy_(staging, non_blocking=True)


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy of any type on the device; on a CPU the array itself."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class HostCopy:
    """A copy of a device tensor that is on its way to the host.

    A slot is this object's alone until `wait`, which takes the values of a small copy out of it and gives it
    back: however many copies are on their way, and however long values are held, none overwrites another. One
    that nobody waits for is not given back, and another is made in its place. Values of a large copy keep its
    memory for themselves.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._shape, self._size = tensor.shape, tensor.numel()
        self._slot: _Slot | None = None
        if not tensor.is_cuda:
            self._values: npt.NDArray[Any] = tensor.numpy()
            return
        self._free = _landings[tensor.device, tensor.dtype] if self._size <= _LANDING_SIZE else []
        size = max(self._size, _LANDING_SIZE)
        self._slot = self._free.pop() if self._free else _Slot(size, tensor.dtype, tensor.device)
        self._slot.tensor[: self._size].copy_(tensor.flatten(), non_blocking=True)
        self._slot.started()

    def wait(self) -> npt.NDArray[Any]:
        """The values, once they have arrived; on a CPU the tensor's own."""
        if self._slot is not None:
            self._slot.wait()
            self._values = self._slot.array[: self._size].reshape(self._shape)
            if self._size <= _LANDING_SIZE:
                self._values = self._values.copy()
                self._free.append(self._slot)
            self._slot = None
        return self._values
