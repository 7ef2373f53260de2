# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer bench`: how fast a checkpoint is here, next to its peers and to the memory's speed."""

from .command import bench

__all__ = ["bench"]
