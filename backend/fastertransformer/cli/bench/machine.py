# SPDX-License-Identifier: BSD-3-Clause
"""The machine that figures belong to, and its measured ceilings: reading memory, multiplying matrices."""

import platform
from pathlib import Path

import torch
from msgspec import Struct

from ... import ops
from ...models.data_types import DTYPES
from .timing import best_seconds

_READ_BYTES = {"cpu": 1 << 30, "cuda": 4 << 30}
_READ_DTYPES = {"cpu": torch.float32, "cuda": torch.int64}
"""Whose sum torch computes at the memory's speed."""
_MATRIX_SIZES = {"cpu": 1024, "cuda": 8192}
_PRODUCTS = {"cpu": 1, "cuda": 10}
"""Of one timing."""


class Machine(Struct, frozen=True, kw_only=True):
    """Where figures were measured; ceilings are those of one device."""

    device: str
    """cpu or cuda"""
    device_name: str
    torch_version: str
    cuda_version: str | None
    num_threads: int
    data_type: str
    """Of the matrix rate."""
    read_bandwidth: float
    """Bytes per second."""
    matrix_rate: float
    """Operations per second, a multiplication and an addition counted as two."""


def measure_machine(device: torch.device, data_type: str, num_threads: int) -> Machine:
    """Takes a second on a GPU, a few on a CPU."""
    torch.set_num_threads(num_threads)
    bandwidth = read_bandwidth(device, _READ_BYTES[device.type])
    rate = matrix_rate(device, DTYPES[data_type], _MATRIX_SIZES[device.type])
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the engine plans with what is free
    return Machine(
        device=device.type,
        device_name=device_name(device),
        torch_version=str(torch.__version__),
        cuda_version=torch.version.cuda,
        num_threads=num_threads,
        data_type=data_type,
        read_bandwidth=bandwidth,
        matrix_rate=rate,
    )


def read_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes per second of a sum over `num_bytes`."""
    dtype = _READ_DTYPES[device.type]
    data = torch.arange(num_bytes // dtype.itemsize, dtype=dtype, device=device)
    return num_bytes / best_seconds(data.sum, device)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations per second of products of random [size, size] matrices."""
    count = _PRODUCTS[device.type]
    a, b = (torch.randn((size, size), device=device).to(dtype) for _ in range(2))

    def products() -> None:
        for _ in range(count):
            ops.library_linear(a, b.T, None)

    return count * 2 * size**3 / best_seconds(products, device)


def device_name(device: torch.device) -> str:
    """The GPU's product name, or the CPU's as the kernel knows it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
