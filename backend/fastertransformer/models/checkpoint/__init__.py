# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoint readers, and which one a path needs."""

from pathlib import Path

import torch

from ...errors import ModelLoadError
from .base import Checkpoint
from .dummy import DummyCheckpoint
from .fastertransformer import FasterTransformerCheckpoint, find_folder, holds_weights
from .gguf import GgufCheckpoint
from .huggingface import HuggingFaceCheckpoint

__all__ = ["Checkpoint", "open_checkpoint"]


_CPU = torch.device("cpu")


def open_checkpoint(path: str, load_format: str = "auto", device: torch.device = _CPU) -> Checkpoint:
    """A Hugging Face folder, FasterTransformer's own folder or the one around it, a GGUF file, or a folder
    with one GGUF file.

    Args:
        load_format: `dummy` takes nothing but config.json and makes the weights up, on `device`.

    Raises:
        ModelLoadError: there is no checkpoint, or it is damaged.
    """
    place = Path(path)
    if load_format == "dummy":
        return DummyCheckpoint(place, device)
    if place.is_file() and place.suffix == ".gguf":
        return GgufCheckpoint(place)
    own = find_folder(place)
    # config.ini beside a Hugging Face checkpoint is there for its prompt-learning tasks alone.
    is_hugging_face = (place / "config.json").exists() and not (own and holds_weights(own))
    if own is not None and not is_hugging_face and not any(place.glob("*.safetensors")):
        return FasterTransformerCheckpoint(own)
    if (place / "config.json").exists():
        return HuggingFaceCheckpoint(place)
    files = list(place.glob("*.gguf")) if place.is_dir() else []
    if len(files) == 1:
        return GgufCheckpoint(files[0])
    found = (
        "does not exist"
        if not place.exists()
        else "has no config.json, no config.ini and not exactly one .gguf file"
    )
    raise ModelLoadError(
        f"model_checkpoint_path {path} {found}; "
        "give a Hugging Face folder, FasterTransformer's own or a GGUF file"
    )
