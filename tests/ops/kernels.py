# SPDX-License-Identifier: BSD-3-Clause
"""Runs a kernel beside the body of its op: same inputs, and guard words around everything it may write."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastertransformer import _C
from fastertransformer.ops.registry import OPS

GUARD_ELEMENTS = 64
# Relative to the largest value of the result; 16-bit results are rounded once by body and kernel.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
KERNEL_SETS = [*(name for name in ("generic", "avx2", "avx512") if hasattr(_C.cpu_sets, name)), GPU]
"""Every set of kernels, for `@pytest.mark.parametrize("kernels", KERNEL_SETS)`."""
GPU_SM80 = pytest.param("cuda_sm80", marks=pytest.mark.gpu)
"""Kernels that the op of their name runs on GPUs before Hopper."""
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Guarded:
    """A copy of a tensor, with its strides, between two rows of guard words that nothing may touch."""

    def __init__(self, tensor: Tensor, device: str) -> None:
        extent = 1 + sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        )
        guard = torch.full((GUARD_ELEMENTS,), 77, dtype=tensor.dtype, device=device)
        self._memory = torch.cat([guard, torch.empty(extent, dtype=tensor.dtype, device=device), guard])
        self.tensor = self._memory[GUARD_ELEMENTS:].as_strided(tensor.shape, tensor.stride())
        self.tensor.copy_(tensor)

    def check(self, what: str) -> None:
        for part in (self._memory[:GUARD_ELEMENTS], self._memory[-GUARD_ELEMENTS:]):
            assert bool((part == 77).all()), f"{what} was written beyond its end"


def run(kernels: str, name: str, *arguments: Any) -> tuple[Tensor | None, list[Any]]:
    """(result, arguments afterwards), on the CPU; the result is poisoned before the kernel runs.

    Args:
        kernels: one of KERNEL_SETS. arguments: those of the op's body, tensors on the CPU.
    """
    device = "cuda" if kernels.startswith("cuda") else "cpu"
    kernel = getattr(getattr(_C if device == "cuda" else _C.cpu_sets, kernels), name)
    guarded = [Guarded(value, device) if isinstance(value, Tensor) else value for value in arguments]
    given = [value.tensor if isinstance(value, Guarded) else value for value in guarded]
    out = OPS[name].out
    result = None
    if out is not None:
        poison = out(*given)
        result = Guarded(poison.fill_(torch.nan if poison.is_floating_point() else -99), device)
    stream = (torch.cuda.current_stream().cuda_stream,) if device == "cuda" else ()
    kernel(*([result.tensor] if result else []), *given, *stream)
    if device == "cuda":
        torch.cuda.synchronize()
    for index, value in enumerate([*guarded, result]):
        if isinstance(value, Guarded):
            value.check(f"argument {index} of {name}" if value is not result else f"the result of {name}")
    after = [value.tensor.cpu() if isinstance(value, Guarded) else value for value in guarded]
    return (None if result is None else result.tensor.cpu()), after


def assert_equals_body(kernels: str, name: str, *arguments: Any, scale: float = 1.0) -> None:
    """Result and changed arguments of the kernel are those of the body.

    Args:
        scale: multiplies the tolerance, for sums that are longer than usual.
    """
    result, after = run(kernels, name, *arguments)
    expected_after = [value.clone() if isinstance(value, Tensor) else value for value in arguments]
    expected = OPS[name].body(*expected_after)
    pairs = list(zip(after, expected_after, strict=True)) + (
        [(result, expected)] if result is not None else []
    )
    for actual, wanted in pairs:
        if isinstance(wanted, Tensor):
            assert_close(actual, wanted, scale)


def assert_close(actual: Tensor, wanted: Tensor, scale: float = 1.0) -> None:
    """Equal for integers; floats within the tolerance of their type times the largest finite value."""
    if not wanted.is_floating_point():
        assert torch.equal(actual, wanted)
        return
    finite = wanted[wanted.isfinite()].float().abs()
    bound = TOLERANCES[wanted.dtype] * scale * max(1.0, float(finite.max()) if len(finite) else 1.0)
    torch.testing.assert_close(actual, wanted, atol=bound, rtol=0, equal_nan=True)
