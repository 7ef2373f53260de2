# SPDX-License-Identifier: BSD-3-Clause
"""What a user gives as PATH: where its weights and its tokenizer are, converted once and cached."""

import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs
from rich.markup import escape

from ..errors import ModelLoadError
from .byte_vocabulary import write_byte_tokenizer
from .console import errors
from .vocabularies import MODELS, write_tokenizer


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that `path` is or holds; None for a Hugging Face folder."""
    if path.suffix == ".gguf":
        return path
    if (path / "config.json").exists():
        return None
    files = list(path.glob("*.gguf"))
    return files[0] if len(files) == 1 else None


def find_tokenizer(path: Path) -> Path | None:
    """A folder with tokenizer.json, which may be the one around `<n>-gpu`; made from the GGUF file where
    that holds the tokenizer, or from an older one's vocabulary."""
    gguf = find_gguf(path)
    if gguf is not None:
        return cached(gguf, "tokenizer", _convert_tokenizer)
    from ..models.checkpoint.fastertransformer import find_folder  # imports torch, which takes seconds

    own = find_folder(path)
    places = [path] if own is None else [path, own, own.parent]
    found = next((place for place in places if (place / "tokenizer.json").exists()), None)
    return found or _of_older_files(places)


def _of_older_files(places: Iterable[Path]) -> Path | None:
    """A folder with tokenizer.json made of the first vocabulary in `places`; says why there is none."""
    files = (place / name for place in places for name in _OLDER)
    vocabulary = next((file for file in files if file.exists()), None)
    if vocabulary is None:
        return None
    try:
        return cached(vocabulary, "tokenizer", _OLDER[vocabulary.name])
    except ModelLoadError as error:
        errors.print(f"[yellow]{escape(str(error))}[/]")
        return None


def hugging_face_folder(path: Path) -> Path:
    """A folder that transformers can load fast; a GGUF file is written out in fp32 once.

    Raises:
        ModelLoadError: transformers lacks a package that it needs to read the file.
    """
    gguf = find_gguf(path)
    if gguf is not None and importlib.util.find_spec("accelerate") is None:
        raise ModelLoadError(
            f"{gguf} cannot be read by transformers without accelerate: pip install '.[bench]'"
        )
    return path if gguf is None else cached(gguf, "fp32", _convert_weights)


def cached(source: Path, kind: str, make: Callable[[Path, Path], None]) -> Path:
    """The folder that `make(source, folder)` fills, kept until the source changes.

    Raises:
        ModelLoadError: the source does not exist.
    """
    if not source.exists():
        raise ModelLoadError(f"{source} does not exist")
    status = source.resolve().stat()
    identity = f"{source.resolve()} {status.st_size} {status.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    folder = platformdirs.user_cache_path("fastertransformer") / f"{source.stem}-{digest}" / kind
    if not folder.exists():
        with errors.status(f"Writing the {kind} of {source.name} into the cache, once"):
            _make_whole(source, folder, make)
    return folder


def _make_whole(source: Path, folder: Path, make: Callable[[Path, Path], None]) -> None:
    from ..models.conversion import finished_folder  # imports torch, which takes seconds

    try:
        with finished_folder(folder) as unfinished:
            make(source, unfinished)
    except (ModelLoadError, OSError):
        if not folder.exists():  # else somebody was faster
            raise


def _convert_tokenizer(gguf: Path, folder: Path) -> None:
    from transformers import AutoTokenizer  # slow to import, and needed once

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _convert_older_tokenizer(vocabulary: Path, folder: Path) -> None:
    from transformers import AutoTokenizer  # slow to import, and needed once

    try:
        AutoTokenizer.from_pretrained(vocabulary.parent, local_files_only=True).save_pretrained(folder)
    except Exception as error:  # files of many ages and packages fail in many ways
        raise ModelLoadError(f"transformers cannot read the tokenizer of {vocabulary}: {error}") from error
    if not (folder / "tokenizer.json").exists():
        raise ModelLoadError(f"transformers has no tokenizer.json for the tokenizer of {vocabulary}")


def _of_class(settings: Path, folder: Path) -> None:
    """Of one that needs no vocabulary."""
    from ..models.checkpoint.huggingface import read_json  # imports torch, which takes seconds

    name = read_json(settings).get("tokenizer_class")
    if name != "ByT5Tokenizer":
        raise ModelLoadError(f"{settings.parent} has no vocabulary of which a {name!r} can be made")
    write_byte_tokenizer(folder)


_OLDER: dict[str, Callable[[Path, Path], None]] = {
    "vocab.txt": _convert_older_tokenizer,
    "merges.txt": _convert_older_tokenizer,
    **dict.fromkeys(MODELS, write_tokenizer),
    "tokenizer_config.json": _of_class,
}
"""Vocabularies from before tokenizer.json, and what makes one of them. Of SentencePiece's models transformers
makes up what it cannot read."""


def _convert_weights(gguf: Path, folder: Path) -> None:
    """transformers refuses to save a model that it loaded from GGUF; a fresh one takes over the weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    fresh = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        type(loaded.config)(**config)
    )
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
