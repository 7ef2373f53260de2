# SPDX-License-Identifier: BSD-3-Clause
"""Host arrays to the device and results back, without a wait where the device is a GPU.

Pinned memory comes from torch's caching host allocator, which hands a block out again only when the
copies that use it are done.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..engine.batch import Int32Array


def to_device(arrays: Sequence[Int32Array], device: torch.device, out: Tensor | None = None) -> Tensor:
    """All arrays side by side in one int32 tensor, copied once; into `out` where that is given."""
    size = sum(array.size for array in arrays)
    return filled(size, lambda memory: np.concatenate([a.ravel() for a in arrays], out=memory), device, out)


def filled(
    size: int, fill: Callable[[Int32Array], object], device: torch.device, out: Tensor | None = None
) -> Tensor:
    """`size` int32 that `fill` writes on the host, copied once; into `out` where that is given."""
    staging = torch.empty(size, dtype=torch.int32, pin_memory=device.type == "cuda")
    fill(staging.numpy())
    if out is None:
        return staging.to(device, non_blocking=True)
    return out.copy_(staging, non_blocking=True)


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy of any type on the device; on a CPU the array itself."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class HostCopy:
    """A copy of a device tensor that is on its way to the host."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> Tensor:
        """The values, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
