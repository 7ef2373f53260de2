# SPDX-License-Identifier: BSD-3-Clause
"""Writes Hugging Face folders: config.json and safetensors files of a few gigabytes."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...errors import ModelLoadError
from ..families.base import Family
from ..spec import ModelSpec
from .pieces import Piece, named, shares_words

_FILE_BYTES = 5_000_000_000
_INDEX = "model.safetensors.index.json"


class HuggingFaceWriter:
    """Takes the pieces of one model.

    Args:
        spec: of the target. is_tied: the head is the word table, and left out.
    """

    def __init__(
        self, folder: Path, family: Family, spec: ModelSpec, is_tied: bool, file_bytes: int = _FILE_BYTES
    ) -> None:
        self._folder, self._family, self._spec, self._is_tied = folder, family, spec, is_tied
        self._file_bytes, self._num_bytes = file_bytes, 0
        self._pending: dict[str, Tensor] = {}
        self._written: list[list[str]] = []
        self._shared: Tensor | None = None

    def write(self, piece: Piece) -> None:
        """Raises: ModelLoadError: the family shares a tensor that differs between encoder and decoder."""
        if piece.role == "head" and piece.suffix == ".weight" and self._is_tied:
            return
        if piece.role == "embedding" and self._spec.encoder is not None and shares_words(self._family):
            if not piece.stack:
                self._check_shared(piece.tensor)
                return
            self._shared = piece.tensor
        spec = self._spec.encoder if piece.stack else self._spec
        assert spec is not None
        for name, tensor in named(piece, self._family, spec).items():
            self._add(name, tensor.T if self._family.transposed and piece.is_matrix else tensor)

    def _check_shared(self, words: Tensor) -> None:
        if self._shared is None or not torch.equal(words, self._shared):
            raise ModelLoadError(
                "encoder and decoder have different word tables; transformers has one for both"
            )

    def _add(self, name: str, tensor: Tensor) -> None:
        assert name not in self._pending
        assert not any(name in names for names in self._written)
        if self._pending and self._pending_bytes() + tensor.nbytes > self._file_bytes:
            self._flush()
        self._pending[name] = tensor.contiguous().clone()
        self._num_bytes += tensor.nbytes

    def _pending_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._pending.values())

    def _flush(self) -> None:
        save_file(self._pending, self._folder / _part(len(self._written)), metadata={"format": "pt"})
        self._written.append(list(self._pending))
        self._pending = {}

    def finish(self, config: dict[str, Any]) -> None:
        """Names the files and writes config.json."""
        self._flush()
        count = len(self._written)
        weight_map: dict[str, str] = {}
        for index, names in enumerate(self._written):
            final = "model.safetensors" if count == 1 else f"model-{index + 1:05}-of-{count:05}.safetensors"
            (self._folder / _part(index)).rename(self._folder / final)
            weight_map |= dict.fromkeys(names, final)
        if count > 1:
            index_file = {"metadata": {"total_size": self._num_bytes}, "weight_map": weight_map}
            (self._folder / _INDEX).write_text(json.dumps(index_file, indent=2))
        (self._folder / "config.json").write_text(json.dumps(config, indent=2))


def _part(index: int) -> str:
    return f"part-{index}.unfinished"
