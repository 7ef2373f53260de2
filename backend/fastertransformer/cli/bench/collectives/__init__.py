# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer bench-collectives`: sums over ranks, in every way that an engine may take."""

from .command import bench_collectives

__all__ = ["bench_collectives"]
