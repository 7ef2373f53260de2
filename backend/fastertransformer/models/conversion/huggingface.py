# SPDX-License-Identifier: BSD-3-Clause
"""Writes Hugging Face folders: config.json and safetensors files of a few gigabytes."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..families import FAMILIES
from ..spec import ModelSpec
from .pieces import TABLES, Piece, qkv_parts, qkv_rows

_FILE_BYTES = 5_000_000_000
_INDEX = "model.safetensors.index.json"


class HuggingFaceWriter:
    """Takes the pieces of one model.

    Args:
        spec: of the target. position_padding: rows in front of the position table, where the family has any.
    """

    def __init__(self, folder: Path, model_type: str, spec: ModelSpec, file_bytes: int = _FILE_BYTES) -> None:
        self._folder, self._family, self._spec = folder, FAMILIES[model_type], spec
        self._file_bytes, self._num_bytes = file_bytes, 0
        self._pending: dict[str, Tensor] = {}
        self._written: list[list[str]] = []

    def write(self, piece: Piece) -> None:
        if piece.role == "head" and piece.suffix == ".weight" and self._spec.tie_word_embeddings:
            return
        for name, tensor in self._named(piece).items():
            is_matrix = tensor.dim() == 2 and piece.role not in TABLES
            self._add(name, tensor.T if self._family.transposed and is_matrix else tensor)

    def _named(self, piece: Piece) -> dict[str, Tensor]:
        """The tensors that a piece is in this family."""
        if piece.role != "qkv" or "qkv" in self._family.names:
            tensor = piece.tensor
            if piece.role == "qkv":
                rows = qkv_rows(self._spec, self._family.qkv_layout)
                tensor = torch.empty_like(piece.tensor)
                tensor[rows] = piece.tensor
            return {self._name(piece.role, piece): tensor}
        parts = torch.split(piece.tensor, list(qkv_parts(self._spec)))
        return {self._name(role, piece): part for role, part in zip("qkv", parts, strict=True)}

    def _name(self, role: str, piece: Piece) -> str:
        known = self._family.names[role]
        first = known if isinstance(known, str) else known[0]
        return first.format(**piece.place._asdict()) + piece.suffix

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
