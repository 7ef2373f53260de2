# SPDX-License-Identifier: BSD-3-Clause
"""Files of named tensors, of which parts are read without the rest."""

import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import ModelLoadError

Part = tuple[slice, ...]


class WeightFile(Protocol):
    """One file."""

    @property
    def names(self) -> Iterable[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, part: Part = ()) -> Tensor:
        """In memory of its own."""
        ...

    def identity(self, name: str) -> tuple[object, ...]:
        """Equal for names of the same tensor."""
        ...


class SafetensorsFile:
    """Raises: ModelLoadError: the file is damaged."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(f"weight file {path} is damaged or cut off: {error}") from error

    @property
    def names(self) -> Iterable[str]:
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str, part: Part = ()) -> Tensor:
        tensor: Tensor = self._file.get_slice(name)[part or (...,)]
        return tensor

    def identity(self, name: str) -> tuple[object, ...]:
        return (name,)


class PytorchFile:
    """What torch.save left of a state dict. Nothing but tensors is unpickled, and no code runs.

    Raises:
        ModelLoadError: the file is damaged, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Files of torch before 1.6 are no archives, and have to be read whole.
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ModelLoadError(
                f"weight file {path} is damaged, cut off, or holds more than tensors: {reason}"
            ) from error
        if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
            raise ModelLoadError(f"weight file {path} does not hold tensors by name, as a state dict does")
        self._tensors: dict[str, Tensor] = values

    @property
    def names(self) -> Iterable[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str, part: Part = ()) -> Tensor:
        return self._tensors[name][part].clone(memory_format=torch.contiguous_format)

    def identity(self, name: str) -> tuple[object, ...]:
        tensor = self._tensors[name]
        return (name,) if tensor.numel() == 0 else (tensor.data_ptr(), tensor.shape, tensor.stride())


def open_weights(path: Path) -> WeightFile:
    """Raises: ModelLoadError: the file is damaged."""
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PytorchFile(path)
