# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoint readers, and which one a path needs."""

from pathlib import Path

from ...errors import ModelLoadError
from .base import Checkpoint
from .gguf import GgufCheckpoint
from .safetensors import SafetensorsCheckpoint

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(path: str) -> Checkpoint:
    """A Hugging Face folder, a GGUF file, or a folder with one GGUF file.

    Raises:
        ModelLoadError: there is no checkpoint, or it is damaged.
    """
    place = Path(path)
    if place.is_file() and place.suffix == ".gguf":
        return GgufCheckpoint(place)
    if (place / "config.json").exists():
        return SafetensorsCheckpoint(place)
    files = list(place.glob("*.gguf")) if place.is_dir() else []
    if len(files) == 1:
        return GgufCheckpoint(files[0])
    found = "does not exist" if not place.exists() else "has no config.json and not exactly one .gguf file"
    raise ModelLoadError(f"model_checkpoint_path {path} {found}; give a Hugging Face folder or a GGUF file")
