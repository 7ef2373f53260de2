# SPDX-License-Identifier: BSD-3-Clause
"""What every checkpoint reader offers: names, shapes, and slices read without the rest."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

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

    def shape(self, name: str) -> tuple[int, ...]: ...

    def slice(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows [start, stop) along `dim`; reads no more than it must.

        Raises:
            ModelLoadError: the file is damaged.
        """
        ...
