# SPDX-License-Identifier: BSD-3-Clause
"""How fast this machine is at it: `fastertransformer bench` for models, `bench-kernels` for single ops,
`bench-collectives` for what ranks tell each other."""

from .collectives import bench_collectives
from .command import bench
from .kernels import bench_kernels

__all__ = ["bench", "bench_collectives", "bench_kernels"]
