# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer bench-kernels`: every op in the sizes of real models, its kernel next to torch."""

from .command import bench_kernels

__all__ = ["bench_kernels"]
