# SPDX-License-Identifier: BSD-3-Clause
"""Converts a checkpoint between Hugging Face's format and FasterTransformer's, tensor by tensor."""

import configparser
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ...errors import ModelLoadError
from ..checkpoint import Checkpoint, open_checkpoint
from ..checkpoint.fastertransformer import FasterTransformerCheckpoint
from ..checkpoint.fastertransformer.config import class_for, ini_of, read_values, section_of
from ..checkpoint.fastertransformer.translation import TRANSLATIONS, Sections
from ..data_types import DTYPES
from ..encoding.spec import EncodingSpec
from ..families.base import Family
from ..families.fastertransformer import PREFIX, as_stored
from ..hf_config import HFConfig
from ..loader import family_for, family_of, read_encoding, read_spec
from ..spec import ModelSpec
from ..weights import Progress
from .adaptation import WordTables, different_encoding, for_hugging_face, word_tables
from .configs import differences, hugging_face_config
from .fastertransformer import FasterTransformerWriter
from .folders import finished_folder
from .huggingface import HuggingFaceWriter
from .pieces import Piece, open_reader, pieces

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


TARGETS = ("fastertransformer", "huggingface")
_TYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was done."""

    folder: Path
    """That holds the weights now."""
    source_type: str
    target_type: str
    data_type: str
    num_tensors: int
    num_parameters: int
    copied: tuple[str, ...]
    """Files that went along."""


class _Writer(Protocol):
    def write(self, piece: Piece) -> None: ...


def convert_checkpoint(
    source: Path, target: Path, to: str, num_shards: int, data_type: str, progress: Progress
) -> Conversion:
    """Writes a Hugging Face folder as `target`, or FasterTransformer's files as `target/<num_shards>-gpu`.

    Args:
        data_type: of the files; `auto`: the source's.
        progress: called with (tensors read, tensors in all).

    Raises:
        ModelLoadError: the source is damaged, has what the other format has no place for, or is in that
            format already; the target exists. Nothing is left behind.
    """
    checkpoint = open_checkpoint(str(source))
    if data_type == "auto":
        data_type = _stored_type(checkpoint)
    if isinstance(checkpoint, FasterTransformerCheckpoint) == (to == "fastertransformer"):
        raise ModelLoadError(f"{source} is a {checkpoint.config.model_type}; it needs no conversion to {to}")
    if isinstance(checkpoint, FasterTransformerCheckpoint):
        return _to_hugging_face(checkpoint, target, data_type, progress)
    folder = target / f"{num_shards}-gpu"
    return _to_fastertransformer(checkpoint, source, folder, num_shards, data_type, progress)


def _to_fastertransformer(
    checkpoint: Checkpoint, source: Path, folder: Path, num_shards: int, data_type: str, progress: Progress
) -> Conversion:
    kind = checkpoint.config.model_type
    name, family = class_for(kind, str(source)), family_of(checkpoint, "")
    spec, encoding = read_spec(checkpoint, family), read_encoding(checkpoint, family)
    sections = ini_of(name, checkpoint.config, spec)
    own_family = family_for(PREFIX + name, encoding is not None)
    _check_place(name, own_family, sections, spec, encoding)
    _check_shards(spec, num_shards)
    with finished_folder(folder) as unfinished:
        writer = FasterTransformerWriter(unfinished, name, own_family, spec, num_shards)
        reader = open_reader(checkpoint, family, DTYPES[data_type], progress)
        counts = _write(writer, pieces(reader, spec, family.qkv_layout, encoding), data_type)
        sections.setdefault(section_of(name), {})["model_name"] = kind
        if name not in TRANSLATIONS:
            sections[name] |= {key: str(value) for key, value in _ids(checkpoint).items()}
        writer.finish(sections, data_type)
        copied = _copy([source], unfinished)
    return Conversion(folder, kind, PREFIX + name, data_type, *counts, copied)


def _to_hugging_face(
    checkpoint: FasterTransformerCheckpoint, folder: Path, data_type: str, progress: Progress
) -> Conversion:
    config = checkpoint.config
    name, family = config.model_type.removeprefix(PREFIX), family_of(checkpoint, "")
    spec, encoding = read_spec(checkpoint, family), read_encoding(checkpoint, family)
    _check_ia3(checkpoint, spec)
    reader = open_reader(checkpoint, family, DTYPES[data_type], progress)
    if encoding is not None and not reader.has("embedding", ".weight"):
        raise ModelLoadError(f"{checkpoint.files.folder} has no embeddings; transformers' models have some")
    words = word_tables(reader, spec) if encoding is None else WordTables(spec.tie_word_embeddings)
    known = replace(spec, tie_word_embeddings=words.is_tied, embedding_scale=words.scale)
    made, target_family, target = hugging_face_config(name, config, known, encoding is not None)
    with finished_folder(folder) as unfinished:
        writer = HuggingFaceWriter(unfinished, target_family, target, words.is_tied)
        found = pieces(reader, spec, family.qkv_layout, encoding)
        counts = _write(writer, for_hugging_face(checkpoint, family, found, target, words), data_type)
        ids = {name: config.token_ids(name)[0] for name in _IDS.values() if config.has(name)}
        dtype = {kind: name for name, kind in _TYPES.items()}[data_type]
        writer.finish({**made, **ids, "dtype": dtype})
        copied = _copy([checkpoint.files.folder, checkpoint.files.folder.parent], unfinished)
    return Conversion(folder, config.model_type, made["model_type"], data_type, *counts, copied)


def _check_ia3(checkpoint: FasterTransformerCheckpoint, spec: ModelSpec) -> None:
    """Raises: ModelLoadError: there are factors of tasks; names them."""
    if not spec.ia3_num_tasks:
        return
    names = [name for name in sorted(checkpoint.files.names) if ".ia3." in name]
    raise ModelLoadError(
        f"{checkpoint.files.folder} has factors of {spec.ia3_num_tasks} IA3 tasks, for which models of"
        f" transformers have no place: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
    )


_IDS = {"start_id": "bos_token_id", "end_id": "eos_token_id"}


def _ids(checkpoint: Checkpoint) -> dict[str, int]:
    """start_id and end_id, the first one where there are several."""
    found = {key: checkpoint.config.token_ids(name) for key, name in _IDS.items()}
    return {key: ids[0] for key, ids in found.items() if ids}


def _stored_type(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    if isinstance(checkpoint, FasterTransformerCheckpoint):
        return config.text("weight_data_type", "fp32")
    name = config.text("dtype", config.text("torch_dtype", "float32"))
    if name not in _TYPES:
        raise ModelLoadError(f"the source is stored as {name}; give a data type of {', '.join(DTYPES)}")
    return _TYPES[name]


def _check_place(
    name: str, family: Family, sections: Sections, spec: ModelSpec, encoding: EncodingSpec | None
) -> None:
    """Raises: ModelLoadError: config.ini cannot say what the spec says; names it."""
    place = f"FasterTransformer's [{section_of(name)}]"
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(sections)
    values = read_values(name, parser, place)
    if name not in TRANSLATIONS:
        values["tie_word_embeddings"] = spec.tie_word_embeddings
    config = HFConfig(values, place).renamed(family.config_names)
    left = differences(as_stored(name, spec), family.spec(config))
    if encoding is not None and family.encoding is not None and encoding != family.encoding(config):
        left += different_encoding(encoding, family.encoding(config))
    if left:
        raise ModelLoadError(f"{place} has no place for {', '.join(left)}")


def _check_shards(spec: ModelSpec, num_shards: int) -> None:
    """Raises: ModelLoadError: a size does not divide; names it."""
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        size = getattr(spec, name)
        if size % num_shards:
            raise ModelLoadError(f"{name} {size} is not divisible by tensor_para_size {num_shards}")


def _write(writer: _Writer, found: Iterator[Piece], data_type: str) -> tuple[int, int]:
    """Tensors and numbers that were written.

    Raises:
        ModelLoadError: a value is infinite, or too large for the data type.
    """
    num_tensors = num_parameters = 0
    for piece in found:
        if not piece.tensor.isfinite().all():
            where = f"{piece.role}{piece.suffix} of layer {piece.place.layer}"
            raise ModelLoadError(f"{where} has values that are not finite in {data_type}")
        writer.write(piece)
        num_tensors += 1
        num_parameters += piece.tensor.numel()
    return num_tensors, num_parameters


def _copy(sources: list[Path], folder: Path) -> tuple[str, ...]:
    """Tokenizer and defaults for generation, from the first of the folders that has each."""
    found = {
        name: place / name for name in _COPIED for place in reversed(sources) if (place / name).is_file()
    }
    for name, path in found.items():
        shutil.copyfile(path, folder / name)
    return tuple(found)
