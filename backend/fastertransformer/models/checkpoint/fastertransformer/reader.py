# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's own checkpoints: config.ini and raw .bin files, split for any number of ranks."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ....errors import ModelLoadError
from ...families import FAMILIES
from ...families.fastertransformer import PREFIX
from ...hf_config import HFConfig
from ..huggingface import read_json
from .config import FILE, class_for, class_of, file_type, ini_of, read_ini, read_values, section_of, typed
from .files import Files
from .translation import TRANSLATIONS

_CONFIG = "config.json"
_HEAD = "model.lm_head.weight"
_OPTIONAL = {
    name: re.compile(pattern)
    for name, pattern in {
        "t5": r"^lm_head\.|DenseReluDense\.wi2\.",
        "bart": "^$",
        "m2m": "^$",
        "bert": r"^model\.(embeddings|pooler)\.|^(cls|classifier|qa_outputs)\.",
        "deberta": r"^(model\.)?pooler\.|^(cls|lm_predictions|classifier|qa_outputs)\.",
    }.items()
}
"""What a model of a class may do without; a decoder may without its head. That anything else is missing is
told by the file's name and size."""
_QKV = re.compile(r"\.(query_key_value|SelfAttention\.qkv)\.")
_SUMMED, _SUM = (".attention.dense.bias", ".mlp.dense_4h_to_h.bias"), ".mlp.attention.bias.sum"


class FasterTransformerCheckpoint:
    """A folder as FasterTransformer's converters write it. Tensors have the names of their files, and shape
    and layout of the whole tensor; q, k and v lie one behind the other.

    Raises:
        ModelLoadError: config.ini is wrong, or there is neither it nor a config.json.
    """

    def __init__(self, folder: Path) -> None:
        name, values, source, places = _described(folder)
        data_type = values.pop("weight_data_type", None)
        self.files = Files.of(folder, file_type(HFConfig({"weight_data_type": data_type}, source)))
        found: dict[str, Any] = {"model_type": PREFIX + name, "weight_data_type": data_type}
        if name not in TRANSLATIONS:
            found["tie_word_embeddings"] = _HEAD not in self.files.names
            found |= {name: values.get(key) for key, name in _IDS.items()}
        self.config = HFConfig({**values, **found}, source, places)
        generation = folder / "generation_config.json"
        self.generation = HFConfig(read_json(generation) if generation.exists() else {}, str(generation))
        self._optional = _OPTIONAL.get(name, re.compile(re.escape(_HEAD)))
        self._has_summed_biases = name == "gptneox" and self.config.flag("use_gptj_residual", True)

    def has(self, name: str) -> bool:
        """Whether it may be asked for."""
        return name in self.files.names or not self._optional.search(name)

    def unused(self, used: Iterable[str]) -> list[str]:
        return sorted(set(self.files.names) - set(used))

    def slice(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        if self._has_summed_biases and name.endswith(_SUMMED):
            return self._taken_apart(name, shape)[start:stop]
        parts = self._qkv_parts(shape[-1]) if _QKV.search(name) else ()
        return self.files.slice(name, shape, dim, start, stop, parts)

    def _qkv_parts(self, columns: int) -> tuple[int, int, int]:
        """Of q, k and v, which are equal but for decoders with fewer key-value heads."""
        heads = self.config.integer("head_num", 1)
        kv_heads = self.config.integer("kv_head_num", heads)
        keys = columns * kv_heads // (heads + 2 * kv_heads)
        return columns - 2 * keys, keys, keys

    def _taken_apart(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A bias of which the service only reads the sum with the other one.

        Every rank adds what the file holds before the all-reduce: it is a share of the bias. The single
        biases lie beside the sum where the converter left them; if they do not add up to it, the sum is the
        second one, and there is no first one.
        """
        layer = name.removesuffix(next(end for end in _SUMMED if name.endswith(end)))
        size, shares = shape[0], self.files.num_shards
        total = self.files.slice(layer + _SUM, shape, 0, 0, size)
        if all(layer + end in self.files.names for end in _SUMMED):
            singles = {layer + end: self.files.slice(layer + end, shape, 0, 0, size) for end in _SUMMED}
            first, second = singles.values()
            if (first + second).equal(total):
                return singles[name] * shares
        return total * shares if name.endswith(_SUMMED[1]) else total * 0


_IDS = {"start_id": "bos_token_id", "end_id": "eos_token_id"}


_Described = tuple[str, dict[str, Any], str, dict[str, str]]


def _described(folder: Path) -> _Described:
    """Class and values of config.ini, or what they are by the config.json of the source; the file, and how it
    calls what has another name here."""
    path = folder / FILE
    if path.exists():
        parser = read_ini(folder)
        name = class_of(parser, folder)
        section = section_of(name)
        source = f"{path} [{section}]"
        values = read_values(name, parser, source)
        if name == "t5" and "num_decoder_layers" not in values:
            values["architectures"] = ["T5EncoderModel"]
        places = TRANSLATIONS[name].places(parser, section) if name in TRANSLATIONS else {}
        return name, {**values, "weight_data_type": parser[section].get("weight_data_type")}, source, places
    for place in (folder, folder.parent):
        if (place / _CONFIG).exists():
            return _from_config_json(folder, place / _CONFIG)
    raise ModelLoadError(f"{folder} has weights of FasterTransformer, but neither {FILE} nor {_CONFIG}")


def _from_config_json(folder: Path, path: Path) -> _Described:
    """Of a decoder, whose folder is known by its word table."""
    config = HFConfig(read_json(path), str(path))
    name = class_for(config.model_type, str(path))
    family = FAMILIES[config.model_type]
    spec = family.spec(config.renamed(family.config_names))
    values = typed(ini_of(name, config, spec)[name])
    for key, token in _IDS.items():
        values[key] = next(iter(config.token_ids(token)), None)
    words = next(folder.glob("model.wte*.bin")).stat().st_size // (spec.vocab_size * spec.hidden_size)
    half = "bf16" if config.text("dtype", config.text("torch_dtype", "")) == "bfloat16" else "fp16"
    return name, {**values, "weight_data_type": half if words == 2 else "fp32"}, str(path), {}
