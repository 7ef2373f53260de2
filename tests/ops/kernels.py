# SPDX-License-Identifier: BSD-3-Clause
"""Runs a kernel beside the body of its op: same inputs, and guard words around everything it may write."""

from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor

from fastertransformer import _C
from fastertransformer.ops import pack_int8
from fastertransformer.ops.registry import OPS

GUARD_ELEMENTS = 64
GUARD_WORD = 77
# Relative to the largest value of the result; 16-bit results are rounded once by body and kernel.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
ONE_ROUNDING = 0.5
"""The scale of those tolerances at which a result may differ by its last bit alone."""
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
CPU_SETS = [name for name in ("generic", "avx2", "avx512") if hasattr(_C.cpu_sets, name)]
KERNEL_SETS = [*CPU_SETS, GPU]
"""Every set of kernels, for `@pytest.mark.parametrize("kernels", KERNEL_SETS)`."""
GPU_SM80 = pytest.param("cuda_sm80", marks=pytest.mark.gpu)
"""Kernels that the op of their name runs on GPUs before Hopper."""
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = {"contiguous": (0, 0), "padded": (0, 16), "misaligned": (1, 2)}
"""Name -> elements in front of and behind every row; see `laid_out`."""


def sets_with(name: str) -> list[Any]:
    """The part of KERNEL_SETS that has a kernel of the op; on CPUs some ops run their body alone."""
    return [*(kernels for kernels in CPU_SETS if hasattr(getattr(_C.cpu_sets, kernels), name)), GPU]


def needs_warpgroup_products() -> None:
    """Skips a test where the GPU's kernels lack Hopper's products of warpgroups."""
    if not hasattr(_C, "cuda") or not _C.cuda.has_warpgroup_products():
        pytest.skip("this GPU has no products of warpgroups")


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """An equal tensor that is part of a wider one: `misaligned` suits no access of more than an element."""
    before, behind = LAYOUTS[layout]
    width = tensor.shape[-1]
    whole = torch.full((*tensor.shape[:-1], before + width + behind), GUARD_WORD, dtype=tensor.dtype)
    part = whole[..., before : before + width]
    return part.copy_(tensor)


def held(kernels: str, values: Tensor) -> Tensor:
    """Int8 weights as these kernels take them: packed on a GPU."""
    return pack_int8(values) if kernels.startswith("cuda") else values


class Guarded:
    """A copy of a tensor, as it lies in memory, in and between guard words that nothing may touch."""

    def __init__(self, tensor: Tensor, device: str) -> None:
        extent = 1 + sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        )
        self._start = GUARD_ELEMENTS + tensor.storage_offset() % (16 // tensor.element_size())
        self._memory = torch.full(
            (self._start + extent + GUARD_ELEMENTS,), GUARD_WORD, dtype=tensor.dtype, device=device
        )
        self.tensor = self._view(self._memory, tensor)
        self.tensor.copy_(tensor)

    def _view(self, memory: Tensor, like: Tensor) -> Tensor:
        return memory.as_strided(like.shape, like.stride(), self._start)

    def check(self, what: str) -> None:
        rest = self._memory.clone()
        self._view(rest, self.tensor).fill_(GUARD_WORD)
        assert bool((rest == GUARD_WORD).all()), f"{what} was written outside its elements"


def run(kernels: str, name: str, *arguments: Any) -> tuple[Tensor | None, list[Any]]:
    """(result, arguments afterwards), on the CPU; the result is poisoned before the kernel runs.

    Args:
        kernels: one of KERNEL_SETS, or "body" for the definition itself.
        arguments: those of the op's body, tensors on the CPU.
    """
    if kernels == "body":
        after = [value.clone() if isinstance(value, Tensor) else value for value in arguments]
        return OPS[name].body(*after), after
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
    if device == "cuda":
        torch.cuda.synchronize()  # metadata is read before the kernel in front has ended
    kernel(*([result.tensor] if result else []), *given, *stream)
    if device == "cuda":
        torch.cuda.synchronize()
    for index, value in enumerate([*guarded, result]):
        if isinstance(value, Guarded):
            value.check(f"argument {index} of {name}" if value is not result else f"the result of {name}")
    after = [value.tensor.cpu() if isinstance(value, Guarded) else value for value in guarded]
    return (None if result is None else result.tensor.cpu()), after


def assert_equals_body(
    kernels: str, name: str, *arguments: Any, scale: float = 1.0, undefined: Collection[int] = ()
) -> None:
    """Result and arguments after the kernel are those after the body.

    Args:
        scale: multiplies the tolerance; 0 asks for equal bits.
        undefined: indices of arguments that may hold anything afterwards.
    """
    result, after = run(kernels, name, *arguments)
    expected, expected_after = run("body", name, *arguments)
    pairs = [pair for i, pair in enumerate(zip(after, expected_after, strict=True)) if i not in undefined]
    for actual, wanted in [*pairs, (result, expected)]:
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
