# SPDX-License-Identifier: BSD-3-Clause
"""What an op is: a Python body that defines it, and on devices that have one a kernel of the same name."""

import functools
import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..errors import ModelLoadError

try:
    _C: ModuleType | None = importlib.import_module("fastertransformer._C")
except ModuleNotFoundError:  # built without csrc: the bodies compute
    _C = None

P = ParamSpec("P")
R = TypeVar("R")

_KERNEL_DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16, torch.int32))
_DEVICES = ("cpu", "cuda")


class Op:
    """One registered op."""

    def __init__(self, body: Callable[..., Any], out: Callable[..., Tensor] | None) -> None:
        self.name = body.__name__
        self.body = body
        self.out = out
        self.kernels: dict[str, Callable[..., None]] = {
            device: kernel for device in _DEVICES if (kernel := find_kernel(device, self.name))
        }


OPS: dict[str, Op] = {}
_STACKS = ("decoder_stack",)
"""Kernels of many ops at once; each is left out when one of all kernels is disabled."""
_disabled: set[str] = set()


def find_kernel(device: str, name: str) -> Callable[..., None] | None:
    """The compiled launcher, or None."""
    return getattr(getattr(_C, device, None), name, None)


def has_kernel(device: str, name: str) -> bool:
    """Whether this build has a kernel of op `name` for `device`."""
    return find_kernel(device, name) is not None


def has_kernels(device: str) -> bool:
    """Whether this build has kernels for `device`."""
    return hasattr(_C, device)


def cpu_set() -> str:
    """The instruction set of this CPU that kernels use: generic, avx2 or avx512; empty without kernels."""
    return getattr(_C, "cpu_set", "")


def cuda_architectures() -> tuple[list[int], bool]:
    """(compute capabilities of this build's CUDA kernels as 90 for 9.0, whether the current GPU runs them)"""
    assert _C is not None
    return _C.cuda.architectures(), _C.cuda.has_code_for_device()


def set_device(index: int) -> None:
    """Of torch and of the kernels, which have a CUDA runtime of their own."""
    torch.cuda.set_device(index)
    if has_kernels("cuda"):
        _C.cuda.set_device(index)  # type: ignore[union-attr]


def op(out: Callable[..., Tensor] | None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Registers a body as the definition of the op of its name.

    Args:
        out: allocates the result from the arguments, since kernels never allocate;
            None for ops that change their arguments in place.
    """

    def register(body: Callable[P, R]) -> Callable[P, R]:
        entry = OPS[body.__name__] = Op(body, out)
        kernels = entry.kernels

        @functools.wraps(body)
        def dispatch(*args: Any) -> Any:
            first = args[0]
            is_cuda = first.is_cuda
            kernel = kernels.get("cuda" if is_cuda else "cpu")
            if kernel is None or first.dtype not in _KERNEL_DTYPES:
                return body(*args)  # type: ignore[call-arg]
            # What torch.cuda.current_stream() asks, without the object: every op of a prompt comes here.
            stream = (torch._C._cuda_getCurrentRawStream(first.get_device()),) if is_cuda else ()
            if out is None:
                return kernel(*args, *stream)
            result = out(*args)
            kernel(result, *args, *stream)
            return result

        return dispatch  # type: ignore[return-value]

    return register


def disable(names: Iterable[str]) -> None:
    """Makes ops run their bodies, and those that one kernel computes at once run one by one.

    Raises:
        ModelLoadError: a name that is neither an op nor such a kernel; lists those that are.
    """
    known = sorted((*OPS, *_STACKS))
    for name in names:
        if name not in known:
            raise ModelLoadError(f"parameter disable_kernels names {name!r}; ops are {', '.join(known)}")
        _disabled.add(name)
        if name in OPS:
            OPS[name].kernels.clear()


def any_disabled() -> bool:
    """Whether a kernel was."""
    return bool(_disabled)


def names_ops(names: Iterable[str]) -> bool:
    """Whether an op runs its body where the kernels of these names are disabled."""
    return any(name in OPS for name in names)


def set_num_threads(count: int) -> None:
    """Threads of torch and of the kernels."""
    torch.set_num_threads(count)
    if _C is not None:
        _C.set_num_threads(count)
