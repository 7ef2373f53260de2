# SPDX-License-Identifier: BSD-3-Clause
"""What every checkpoint reader offers: names, shapes, and slices read without the rest."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from ...errors import ModelLoadError
from ..hf_config import HFConfig


class Checkpoint(Protocol):
    """Tensors by their Hugging Face names, in their Hugging Face layout."""

    config: HFConfig
    generation: HFConfig
    """Defaults for generation; may be empty."""

    def has(self, name: str) -> bool: ...

    def unused(self, used: Iterable[str]) -> list[str]:
        """Names of tensors in the files that are not among `used`."""
        ...

    def slice(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        """Rows [start, stop) along `dim` of a tensor of `shape`; reads no more than it must.

        Raises:
            ModelLoadError: the file is damaged, or the tensor has another shape.
        """
        ...


def check_shape(name: str, found: Sequence[int], expected: tuple[int, ...]) -> None:
    """Raises: ModelLoadError: a tensor has another shape than its architecture says; names both."""
    if tuple(found) != expected:
        raise ModelLoadError(f"tensor {name} has shape {list(found)}; expected {list(expected)}")
