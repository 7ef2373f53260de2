# SPDX-License-Identifier: BSD-3-Clause
"""Writes FasterTransformer's files: config.ini, and a .bin for every tensor and rank."""

import configparser
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.fastertransformer.config import FILE, TWO_STACKS, section_of
from ..checkpoint.fastertransformer.files import file_name, is_repeated, shard_of, split_axis
from ..checkpoint.fastertransformer.translation import Sections
from ..families.base import Family
from ..families.fastertransformer import PADDING
from ..spec import ModelSpec, Positions, Residual
from .pieces import Piece, named, qkv_parts, shares_words

_HOLDS_HEADS = ("gptj", "gptneox", "llama", "bart", "m2m")
"""Classes that do not do without a head where it is the word table."""


class FasterTransformerWriter:
    """Takes the pieces of one model.

    Args:
        name: of the class. family: of its files. spec: of the source.
    """

    def __init__(self, folder: Path, name: str, family: Family, spec: ModelSpec, num_shards: int) -> None:
        self._folder, self._class, self._spec, self._num_shards = folder, name, spec, num_shards
        self._family = family
        self._shares = spec.encoder is not None and shares_words(self._family)
        self._sums = name == "gptneox" and spec.residual is Residual.PARALLEL
        self._first_bias: Tensor | None = None

    def write(self, piece: Piece) -> None:
        if piece.role in ("embedding", "positions") and self._shares and not piece.stack:
            return  # written as the encoder's
        spec = self._spec.encoder if piece.stack else self._spec
        assert spec is not None
        tensors = named(piece, self._family, spec)
        parts = qkv_parts(spec) if piece.role == "qkv" and len(tensors) == 1 else ()
        for name, tensor in tensors.items():
            stored = tensor.T if piece.is_matrix else tensor
            self._save_all(name, self._changed(piece, name, stored, spec), parts)

    def _changed(self, piece: Piece, name: str, tensor: Tensor, spec: ModelSpec) -> Tensor:
        """What the files hold of it; leaves files of what transformers has no tensor for."""
        offset = spec.position_offset if spec.positions is Positions.LEARNED else 0
        if piece.role == "positions" and offset:
            self._save(tensor[:offset], name.removesuffix(".weight") + PADDING, None)
            tensor = tensor[offset:]
        if piece.role == "embedding":
            if spec.tie_word_embeddings and self._class in _HOLDS_HEADS and not piece.stack:
                self._save(tensor, f"{self._family.names['head']}.weight", None)
            tensor = scaled(tensor, spec.embedding_scale)
        if self._sums and piece.role in ("output", "down") and piece.suffix == ".bias":
            tensor = self._share(piece, tensor)
        return tensor

    def _save_all(self, name: str, tensor: Tensor, parts: tuple[int, ...]) -> None:
        """A file, or one for every rank."""
        if is_repeated(name):
            for rank in range(self._num_shards):
                self._save(tensor, name, rank)
        elif split_axis(name, tensor.dim()) is None:
            self._save(tensor, name, None)
        else:
            for rank in range(self._num_shards):
                self._save(shard_of(name, tensor, rank, self._num_shards, parts), name, rank)

    def _share(self, piece: Piece, bias: Tensor) -> Tensor:
        """What each rank adds; the sum with the other bias, which is all that is read, is a file too."""
        share = bias / self._num_shards
        if piece.role == "output":
            self._first_bias = share
            return share
        assert self._first_bias is not None
        layer = f"model.layers.{piece.place.layer}"
        self._save(self._first_bias + share, f"{layer}.mlp.attention.bias.sum", None)
        return share

    def _save(self, tensor: Tensor, name: str, rank: int | None) -> None:
        path = self._folder / file_name(name, rank, full=self._class == "llama")
        assert not path.exists()
        tensor.contiguous().view(torch.uint8).numpy().tofile(path)

    def finish(self, sections: Sections, data_type: str) -> None:
        """Writes config.ini. Args: sections: what it says of the model."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_dict(sections)
        for section in (section_of(self._class), *(("decoder",) if self._class in TWO_STACKS else ())):
            if not parser.has_section(section):
                parser.add_section(section)
            parser[section]["weight_data_type"] = data_type
        parser[section_of(self._class)]["tensor_para_size"] = str(self._num_shards)
        with (self._folder / FILE).open("w") as file:
            parser.write(file)


def scaled(words: Tensor, factor: float) -> Tensor:
    """A word table with the factor that transformers multiplies what it gives with."""
    return words if factor == 1.0 else (words.float() * factor).to(words.dtype)
