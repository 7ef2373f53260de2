# SPDX-License-Identifier: BSD-3-Clause
"""Hugging Face folders: config.json and safetensors files, one or many."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import ModelLoadError
from ..hf_config import HFConfig
from .base import check_shape

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class SafetensorsCheckpoint:
    """A folder as `save_pretrained` writes it.

    Raises:
        ModelLoadError: a file is missing, cut off or no JSON; names it.
    """

    def __init__(self, folder: Path) -> None:
        self.config, self.generation = read_configs(folder)
        files = [open_weights(path) for path in _weight_files(folder)]
        self._file_of = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def has(self, name: str) -> bool:
        return name in self._file_of

    def unused(self, used: Iterable[str]) -> list[str]:
        return sorted(set(self._file_of) - set(used))

    def slice(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        lazy = self._file_of[name].get_slice(name)
        check_shape(name, lazy.get_shape(), shape)
        tensor: Tensor = lazy[(slice(None),) * dim + (slice(start, stop),)]
        return tensor


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


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, all of them present."""
    index = folder / _INDEX
    if index.exists():
        weight_map = HFConfig(read_json(index), str(index)).section("weight_map")
        paths = [folder / name for name in sorted({weight_map.text(tensor) for tensor in weight_map})]
    else:
        paths = [folder / _SINGLE]
    for path in paths:
        if not path.exists():
            raise ModelLoadError(f"weight file {path} is missing")
    return paths


def open_weights(path: Path) -> Any:
    """Raises: ModelLoadError: the file is damaged."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"weight file {path} is damaged or cut off: {error}") from error
