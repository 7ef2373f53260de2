# SPDX-License-Identifier: BSD-3-Clause
"""Host arrays to the device and results back, without a wait where the device is a GPU.

Pinned memory comes from torch's caching host allocator, which hands a block out again only when the copies
that use it are done. As that takes long beside a copy, memory for all but the largest copies is kept here.
One thread of a process copies.
"""

import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import ops
from ..engine.batch import Int32Array

_LARGEST = 1 << 20
"""Numbers of a copy whose memory is kept."""
_SMALLEST = 1 << 10
"""Smaller copies take as much."""


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

    def lend(self, array: npt.NDArray[Any], free: "list[_Slot]") -> None:
        """The slot goes to `free` when neither `array`, which reads it, nor a view of that is left."""
        self._borrower = weakref.ref(array, lambda _: free.append(self))

    def started(self) -> None:
        """A copy that uses the memory is in the current stream."""
        self._event.record()

    def has_ended(self) -> bool:
        """Whether that copy has; true before the first."""
        return self._event.query()

    def wait(self) -> None:
        """Until it has."""
        self._event.synchronize()


class _Staging:
    """Slots in turn for copies to a device; whoever gets one writes it at once and starts the copy.

    There are as many as copies were on their way at a time: nobody waits for one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slots: deque[_Slot] = deque()
        """The one that was taken longest ago first."""

    def take(self, size: int) -> _Slot:
        """One of at least `size` int32 that no copy reads any more."""
        if self._slots and self._slots[0].has_ended():
            slot = self._slots.popleft()
        else:
            slot = _Slot(_SMALLEST, torch.int32, self._device)
        self._slots.append(slot)
        if len(slot.array) < size:
            slot.resize(_rounded(size), torch.int32)
        return slot


def _rounded(size: int) -> int:
    """How much memory is kept for a copy of `size` numbers."""
    return max(_SMALLEST, 1 << (size - 1).bit_length())


_staging = cache(_Staging)
"""Of each device."""
_landings: defaultdict[tuple[torch.device, torch.dtype, int], list[_Slot]] = defaultdict(list)
"""Slots that nobody reads, for results of each device, type and rounded size."""


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
    if device.type != "cuda" or size > _LARGEST:
        staging = torch.empty(size, dtype=torch.int32, pin_memory=device.type == "cuda")
        fill(staging.numpy())
        return _copied(staging, device, out)
    slot = _staging(device).take(size)
    fill(slot.array[:size])
    copy = _copied(slot.tensor[:size], device, out)
    slot.started()
    return copy


def _copied(staging: Tensor, device: torch.device, out: Tensor | None) -> Tensor:
    if device.type != "cuda":
        return staging if out is None else out.copy_(staging)
    if out is None:
        out = torch.empty_like(staging, device=device)
    ops.copy_pinned(out, staging)
    return out


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy of any type on the device; on a CPU the array itself."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class HostCopy:
    """A copy of a device tensor that is on its way to the host.

    Its memory belongs to it and to the array that `wait` gives, views of that included, and is written again
    when all of these are gone: however many copies are on their way, and however long values are held, none
    overwrites another.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._slot: _Slot | None = None
        if not tensor.is_cuda:
            self._values: npt.NDArray[Any] = tensor.numpy()
            return
        free, self._slot = _landing(tensor)
        part = self._slot.tensor[: tensor.numel()]
        ops.copy_pinned(part, tensor.flatten())
        self._slot.started()
        # An array of its own: views of it refer to it, whereas views of views of the slot's refer to that.
        self._values = part.view(tensor.shape).numpy()
        self._slot.lend(self._values, free)

    def wait(self) -> npt.NDArray[Any]:
        """The values, once they have arrived; on a CPU the tensor's own."""
        if self._slot is not None:
            self._slot.wait()
        return self._values


def _landing(tensor: Tensor) -> tuple[list[_Slot], _Slot]:
    """A slot for `tensor` that nobody else has, and where it belongs then."""
    size = tensor.numel()
    if size > _LARGEST:
        return [], _Slot(size, tensor.dtype, tensor.device)
    rounded = _rounded(size)
    free = _landings[tensor.device, tensor.dtype, rounded]
    slot = free.pop() if free else _Slot(rounded, tensor.dtype, tensor.device)
    slot.wait()  # whoever had it may not have
    return free, slot
