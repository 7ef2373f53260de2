# SPDX-License-Identifier: BSD-3-Clause
"""Operands of products with few rows, dense and int8, and the kernels that multiply them."""

from typing import Any

import pytest
import torch
from kernels import GPU, GPU_SM80, KERNEL_SETS, held

ROWS = [1, 2, 7, 8, 9, 31, 33, 64]
GPU_SETS = [GPU, GPU_SM80]
SETS = [*KERNEL_SETS, GPU_SM80]
KINDS = ["dense", "int8"]


def check_supported(kernels: str, dtype: torch.dtype, kind: str = "dense") -> None:
    if kernels.startswith("cuda") and dtype == torch.float32:
        pytest.skip("torch multiplies float32 on GPUs")
    if kernels == "cuda_sm80" and kind == "int8":
        pytest.skip("int8 has one kernel for all GPUs")


def check_worth_its_time(kernels: str, shape: tuple[int, int]) -> None:
    if shape[0] > 300 and not kernels.startswith("cuda"):
        pytest.skip("one tile after the other, however many there are")


def make(
    kernels: str, kind: str, dtype: torch.dtype, rows: int, shape: tuple[int, int], seed: int = 0
) -> tuple[Any, ...]:
    """(x [rows, K], weight [N, K]) or (x, weight int8 as `held`, scale [N]); products of size 1."""
    generator = torch.Generator().manual_seed(seed)
    n, k = shape
    x = torch.randn((rows, k), generator=generator).to(dtype)
    if kind == "dense":
        return x, (torch.randn(shape, generator=generator) * k**-0.5).to(dtype)
    weight = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
    scale = (torch.rand(n, generator=generator) + 0.5) * k**-0.5 / 64
    return x, held(kernels, weight), scale


def make_bias(dtype: torch.dtype, size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
