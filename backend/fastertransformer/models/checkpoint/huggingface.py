# SPDX-License-Identifier: BSD-3-Clause
"""Hugging Face folders: config.json and files of weights, one or many."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import ModelLoadError
from ..hf_config import HFConfig
from .base import check_shape
from .weight_files import WeightFile, open_weights

_SINGLES = ("model.safetensors", "pytorch_model.bin")
"""The first kind of which there is something is read."""
_INDEX = ".index.json"


class HuggingFaceCheckpoint:
    """A folder as `save_pretrained` writes it, or wrote it before safetensors.

    Raises:
        ModelLoadError: a file is missing, cut off or no JSON; names it.
    """

    def __init__(self, folder: Path) -> None:
        self.config, self.generation = read_configs(folder)
        files = [open_weights(path) for path in weight_files(folder)]
        self._file_of: dict[str, WeightFile] = {name: file for file in files for name in file.names}

    def has(self, name: str) -> bool:
        return name in self._file_of

    def unused(self, used: Iterable[str]) -> list[str]:
        """What is stored once for several names is used with one of them."""
        found = {self._identity(name) for name in used if name in self._file_of}
        return sorted(name for name in self._file_of if self._identity(name) not in found)

    def slice(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        file = self._file_of[name]
        check_shape(name, file.shape(name), shape)
        return file.read(name, (slice(None),) * dim + (slice(start, stop),))

    def _identity(self, name: str) -> tuple[object, ...]:
        return self._file_of[name].identity(name)


def read_configs(folder: Path) -> tuple[HFConfig, HFConfig]:
    """config.json, and generation_config.json, which may be missing."""
    config, generation = folder / "config.json", folder / "generation_config.json"
    defaults = read_json(generation) if generation.exists() else {}
    return HFConfig(read_json(config), str(config)), HFConfig(defaults, str(generation))


def read_json(path: Path) -> dict[str, Any]:
    """Raises: ModelLoadError: the file is missing or no JSON object."""
    values = _parse(path)
    if not isinstance(values, dict):
        raise ModelLoadError(f"{path} holds a {type(values).__name__}; expected an object")
    return values


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """Raises: ModelLoadError: the file is missing or no JSON list of objects."""
    values = _parse(path)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ModelLoadError(f"{path} holds a {type(values).__name__}; expected a list of objects")
    return values


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelLoadError(f"{path} is not JSON: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, all of them present.

    Raises:
        ModelLoadError: one is missing; names it.
    """
    for single in _SINGLES:
        paths = _files_of(folder, single)
        for path in paths:
            if not path.exists():
                raise ModelLoadError(f"weight file {path} is missing")
        if paths:
            return paths
    raise ModelLoadError(f"weight file {folder / _SINGLES[0]} is missing, and so is {_SINGLES[1]}")


def _files_of(folder: Path, single: str) -> list[Path]:
    """As the index names them where there is one; none where there is neither."""
    index = folder / f"{single}{_INDEX}"
    if not index.exists():
        return [folder / single] if (folder / single).exists() else []
    weight_map = HFConfig(read_json(index), str(index)).section("weight_map")
    return [folder / name for name in sorted({weight_map.text(tensor) for tensor in weight_map})]
