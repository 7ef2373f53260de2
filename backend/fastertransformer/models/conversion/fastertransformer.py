# SPDX-License-Identifier: BSD-3-Clause
"""Writes FasterTransformer's files: config.ini, and a .bin for every tensor and rank."""

import configparser
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.fastertransformer.config import FILE, ini_of
from ..checkpoint.fastertransformer.files import file_name, shard_of, split_axis
from ..families.fastertransformer import POSITION_PADDING, SECTIONS
from ..spec import ModelSpec, Residual
from .pieces import TABLES, Piece, qkv_parts


class FasterTransformerWriter:
    """Takes the pieces of one model.

    Args:
        section: of config.ini. spec: of the source.
    """

    def __init__(self, folder: Path, section: str, spec: ModelSpec, num_shards: int) -> None:
        self._folder, self._section, self._spec, self._num_shards = folder, section, spec, num_shards
        self._names = SECTIONS[section].names
        self._sums = section == "gptneox" and spec.residual is Residual.PARALLEL
        self._first_bias: Tensor | None = None

    def write(self, piece: Piece) -> None:
        name = str(self._names[piece.role]).format(**piece.place._asdict()) + piece.suffix
        tensor = piece.tensor if piece.role in TABLES or piece.tensor.dim() == 1 else piece.tensor.T
        if piece.role == "positions" and self._spec.position_offset:
            self._save(tensor[: self._spec.position_offset], POSITION_PADDING, None)
            tensor = tensor[self._spec.position_offset :]
        if piece.role == "embedding" and self._spec.tie_word_embeddings and self._section != "gpt":
            self._save(tensor, f"{self._names['head']}.weight", None)  # only the GPT class does without
        if self._sums and piece.role in ("output", "down") and piece.suffix == ".bias":
            tensor = self._share(piece, tensor)
        if split_axis(name, tensor.dim()) is None:
            self._save(tensor, name, None)
            return
        parts = qkv_parts(self._spec) if piece.role == "qkv" else ()
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
        path = self._folder / file_name(name, rank, bare=self._section != "llama")
        assert not path.exists()
        tensor.contiguous().view(torch.uint8).numpy().tofile(path)

    def finish(self, name: str, ids: dict[str, int], data_type: str) -> None:
        """Writes config.ini. Args: name: of the source. ids: start_id and end_id, where there are any."""
        parser = configparser.ConfigParser()
        parser[self._section] = {
            "model_name": name,
            **ini_of(self._section, self._spec),
            **{key: str(value) for key, value in ids.items()},
            "weight_data_type": data_type,
            "tensor_para_size": str(self._num_shards),
        }
        with (self._folder / FILE).open("w") as file:
            parser.write(file)
