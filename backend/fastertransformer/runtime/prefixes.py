# SPDX-License-Identifier: BSD-3-Clause
"""Prefix prompts: keys and values from a checkpoint, written into the cache in front of a prompt."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from .. import ops
from ..engine.batch import PrefixLoad
from .transfer import to_device


class Prefixes:
    """This rank's part of the checkpoint's prefix prompts.

    Args:
        tables: [layers of this stage, keys and values, length, K, D] of each task, on the device.
    """

    def __init__(self, tables: Sequence[Tensor], block_size: int) -> None:
        self._tables = tables
        self._block_size = block_size

    def load(self, loads: Iterable[PrefixLoad], kv_cache: Tensor) -> None:
        """Writes what `loads` ask for, in the order of the stream.

        Args:
            kv_cache: [layers of this stage, 2, num_blocks, K, block_size, D]
        """
        for load in loads:
            table = self._tables[load.task][:, :, load.begin :]
            positions = np.arange(load.begin, load.begin + table.shape[2])
            slots = load.blocks[positions // self._block_size] * self._block_size
            slot_mapping = to_device([slots + positions % self._block_size], kv_cache.device)
            for (k, v), (k_cache, v_cache) in zip(table, kv_cache, strict=True):
                ops.kv_write(k, v, k_cache, v_cache, slot_mapping)
