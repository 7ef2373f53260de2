# SPDX-License-Identifier: BSD-3-Clause
"""Copies between pinned memory of the host and a GPU."""

import torch
from torch import Tensor

from .registry import find_kernel

_MOST_WORDS = 1 << 16
"""Of a copy by the kernel."""
_WORDS = (torch.int32, torch.float32)
_kernel = find_kernel("cuda", "copy_pinned")


def copy_pinned(target: Tensor, source: Tensor) -> None:
    """target = source in the order of the current stream; the host does not wait.

    A few words are copied by a kernel: the way to a copy engine and back takes a GPU longer than the copy.

    Args:
        target, source: contiguous, equal sizes and types; one on a GPU, the other in pinned memory.
    """
    if _kernel is None or source.dtype not in _WORDS or source.numel() > _MOST_WORDS:
        target.copy_(source, non_blocking=True)
        return
    index = (target if target.is_cuda else source).get_device()
    _kernel(target.view(-1), source.view(-1), torch._C._cuda_getCurrentRawStream(index))
