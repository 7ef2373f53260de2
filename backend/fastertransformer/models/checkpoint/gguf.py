# SPDX-License-Identifier: BSD-3-Clause
"""GGUF files: the gguf library reads and dequantises; here they get Hugging Face names and layout."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from ...errors import ModelLoadError
from ..hf_config import HFConfig
from .base import check_shape

_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "rope.freq_base": "rope_theta",
}
_SCALING_KEYS = {
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
}

_ROPE_FACTORS = "rope_freqs.weight"

_MODEL_ARCH: dict[str, Any] = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}


@dataclass(frozen=True, slots=True)
class _Architecture:
    """How one architecture's GGUF differs from its Hugging Face checkpoint."""

    pairs_adjacent: bool = False
    """Rows of q and k lie pairwise, as interleaved rotary embedding wants them."""
    transposed: tuple[str, ...] = ()
    """Endings of the weights that Hugging Face stores as [in, out]."""


_ARCHITECTURES = {
    "llama": _Architecture(pairs_adjacent=True),
    "qwen2": _Architecture(),
    "qwen3": _Architecture(),
    "gpt2": _Architecture(transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight")),
}


class GgufCheckpoint:
    """One GGUF file.

    Raises:
        ModelLoadError: the file is damaged or holds an architecture that is not supported.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = _open(path)
        self._architecture_name = str(self._field("general.architecture"))
        if self._architecture_name not in _ARCHITECTURES:
            supported = ", ".join(_ARCHITECTURES)
            raise ModelLoadError(
                f"{path} holds a {self._architecture_name}; supported in GGUF are {supported}"
            )
        self._architecture = _ARCHITECTURES[self._architecture_name]
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.config = HFConfig(self._config(), str(path))
        self.generation = HFConfig({}, str(path))
        layers = self.config.integer("num_hidden_layers")
        self._names: Any = gguf.get_tensor_name_map(_MODEL_ARCH[self._architecture_name], layers)

    def has(self, name: str) -> bool:
        return self._gguf_name(name) in self._tensors

    def unused(self, used: Iterable[str]) -> list[str]:
        return sorted(set(self._tensors) - {self._gguf_name(name) for name in used} - {_ROPE_FACTORS})

    def slice(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        tensor = self._tensor(name)
        found = [int(size) for size in tensor.shape]
        check_shape(name, found if self._is_transposed(name) else found[::-1], shape)
        if self._is_transposed(name):
            return self._dequantise(tensor, tensor.data).T.narrow(dim, start, stop - start)
        if dim == 0:
            return self._unpaired(name, self._dequantise(tensor, tensor.data[start:stop]))
        return self._unpaired(name, self._dequantise(tensor, tensor.data)).narrow(dim, start, stop - start)

    def _dequantise(self, tensor: Any, data: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.array(gguf.dequantize(data, tensor.tensor_type)))

    def _unpaired(self, name: str, rows: Tensor) -> Tensor:
        """Halves of a head one behind the other again; rows are whole heads."""
        if not (self._architecture.pairs_adjacent and ("q_proj" in name or "k_proj" in name)):
            return rows
        default = self.config.integer("hidden_size") // self.config.integer("num_attention_heads")
        head_dim = self.config.integer("head_dim", default)
        return rows.view(-1, head_dim // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)

    def _is_transposed(self, name: str) -> bool:
        return name.endswith(self._architecture.transposed) if self._architecture.transposed else False

    def _tensor(self, name: str) -> Any:
        return self._tensors[self._gguf_name(name)]

    def _config(self) -> dict[str, Any]:
        """A config.json of the architecture."""
        values: dict[str, Any] = {"model_type": self._architecture_name}
        values |= self._renamed(_KEYS)
        values["tie_word_embeddings"] = "output.weight" not in self._tensors
        values["rope_scaling"] = self._rope_scaling()
        if "token_embd.weight" in self._tensors:
            values["vocab_size"] = int(self._tensors["token_embd.weight"].shape[1])
        for key in ("bos_token_id", "eos_token_id"):
            values[key] = self._field(f"tokenizer.ggml.{key}")
        return values

    def _rope_scaling(self) -> dict[str, Any] | None:
        """Llama 3 files hold the scaled frequencies as a tensor, others say how to scale."""
        if _ROPE_FACTORS in self._tensors:
            factors = self._tensors[_ROPE_FACTORS]
            return {"rope_type": "factors", "factors": self._dequantise(factors, factors.data).tolist()}
        scaling = self._renamed(_SCALING_KEYS)
        return None if scaling.get("rope_type", "none") == "none" else scaling

    def _renamed(self, keys: dict[str, str]) -> dict[str, Any]:
        found = {name: self._field(f"{self._architecture_name}.{key}") for key, name in keys.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _field(self, key: str) -> Any:
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    def _gguf_name(self, name: str) -> str | None:
        found: str | None = self._names.get_name(name, (".weight", ".bias"))
        return found


class _Reader(gguf.GGUFReader):
    """Takes its hundred thousand slices from a plain array: a slice of a memmap takes numpy much longer."""

    @property
    def data(self) -> Any:
        """[bytes of the file]"""
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        self._data = mapped.view(np.ndarray)


def _open(path: Path) -> Any:
    try:
        return _Reader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelLoadError(f"{path} is damaged, cut off or no GGUF file: {error}") from error
