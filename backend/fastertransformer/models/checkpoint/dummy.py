# SPDX-License-Identifier: BSD-3-Clause
"""A config.json without weights: random tensors take their place, so that speed can be measured."""

import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from .huggingface import read_configs

_STD = 0.02
"""What most models are initialised with. Never zeros: a GPU computes faster with them."""


class DummyCheckpoint:
    """Any tensor that is asked for, in that shape, the same whenever and wherever it is made.

    Args:
        folder: holds config.json. device: where tensors are made.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.config, self.generation = read_configs(folder)
        self._device = device

    def has(self, name: str) -> bool:
        return True

    def unused(self, used: Iterable[str]) -> list[str]:
        return []

    def slice(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        """Normal, around 1 for the weight of a norm and around 0 elsewhere."""
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        whole = torch.randn(shape, generator=generator, device=self._device).mul_(_STD)
        is_norm = len(shape) == 1 and name.endswith(".weight")
        return whole.add_(is_norm).narrow(dim, start, stop - start)
