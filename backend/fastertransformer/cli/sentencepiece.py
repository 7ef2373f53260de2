# SPDX-License-Identifier: BSD-3-Clause
"""A SentencePiece model as a tokenizer: how its file is read, and what cuts texts as it does.

(sentencepiece_model.proto of github.com/google/sentencepiece)
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from ..errors import ModelLoadError

_NORMAL, _USER_DEFINED, _BYTE = 1, 4, 6
"""Types of pieces; texts are cut into those of the first two, and what is in neither into bytes."""
_BPE = 2
"""A type of model; others are unigrams."""
_LONGEST_NUMBER = 70
"""Bits that the bytes of a number of 64 bits have room for."""
_UNIT = struct.Struct("<I")
"""Of the tree that finds what to replace; its size in bytes stands in front of it, in one more."""
_NOT_CUT = -1e6
"""Score of a character that vocab.json has beside the pieces, such as one of the target language: there is no
other way to cut it. Of what is longer, whose characters there may be, it is that times the length squared."""


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What a file holds, as far as it matters here."""

    pieces: tuple[str, ...]
    scores: Mapping[str, float]
    """Of the pieces that texts are cut into."""
    is_bpe: bool = False
    has_bytes: bool = False
    replacements: normalizers.Normalizer | None = None
    """What is replaced by what before a text is cut."""
    adds_prefix: bool = True
    """A text begins with a blank."""
    trims: bool = True
    """No blanks at its ends, and no two side by side."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a family makes of a model's pieces."""

    ids: Mapping[str, int]
    whole: Sequence[str] = ()
    """Tokens that a text may hold as they are; those without an id follow the others."""
    unknown: str = "<unk>"
    first: str = ""
    """In front of a text, where there is one."""
    last: str = "</s>"
    """Behind it, and behind a second one."""
    ends: bool = True
    """A text has `last` behind it."""
    prefix: str = "always"
    """Which parts of a text between whole tokens begin with a blank, where texts do: this, or the `first`."""


def read_model(path: Path) -> SentencePieceModel:
    """Raises: ModelLoadError: the file is no SentencePiece model."""
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
    except (LookupError, TypeError, AttributeError, ValueError, struct.error) as error:
        raise ModelLoadError(f"{path} is damaged or no SentencePiece model") from error


def convert(model: SentencePieceModel, vocabulary: Vocabulary) -> Tokenizer:
    """A tokenizer that cuts texts as the model does."""
    tokenizer = Tokenizer((_bpe if model.is_bpe else _unigram)(model, vocabulary))
    steps: list[normalizers.Normalizer] = []
    if model.replacements is not None:
        steps.append(model.replacements)
    if model.trims:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    prefix = vocabulary.prefix if model.adds_prefix else "never"
    if not model.trims and prefix == "always":  # Metaspace would add none to blanks
        steps.append(normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=not _joins_words(model))
    tokenizer.decoder = _decoder(model, prefix)
    first, last = vocabulary.first, vocabulary.last if vocabulary.ends else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(filter(None, (first, "$A", last))),
        pair=" ".join(filter(None, (first, "$A", last, "$B:1", last and f"{last}:1"))),
        special_tokens=[(token, vocabulary.ids[token]) for token in (first, last) if token],
    )
    named = ("<s>", "<pad>", first, vocabulary.last, vocabulary.unknown)
    special = [token for token in named if token in vocabulary.ids]
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token in (*special, *vocabulary.whole)]
    )
    return tokenizer


def _joins_words(model: SentencePieceModel) -> bool:
    """Whether a piece has a blank that is not in front, so that a text cannot be cut at its blanks first."""
    return any("▁" in piece[1:] for piece in model.scores)


def _decoder(model: SentencePieceModel, prefix: str) -> decoders.Decoder:
    if not model.has_bytes:
        return decoders.Metaspace(prepend_scheme=prefix)
    trims = [decoders.Strip(" ", 1, 0)] if model.adds_prefix else []
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *trims])


def _unigram(model: SentencePieceModel, vocabulary: Vocabulary) -> models.Unigram:
    ids = vocabulary.ids
    by_id = {number: token for token, number in ids.items()}
    tokens = [by_id.get(number, f"<{number}>") for number in range(max(by_id) + 1)]
    scores = [model.scores.get(token, _NOT_CUT * len(token) ** 2) for token in tokens]
    return models.Unigram(list(zip(tokens, scores, strict=True)), ids[vocabulary.unknown], model.has_bytes)


def _bpe(model: SentencePieceModel, vocabulary: Vocabulary) -> models.BPE:
    """The better the score of a piece, the earlier its halves are joined, whichever they are."""
    ids = vocabulary.ids
    pieces = sorted((piece for piece in model.scores if piece in ids), key=lambda p: -model.scores[p])
    halves = [
        (piece[:i], piece[i:])
        for piece in pieces
        for i in range(1, len(piece))
        if piece[:i] in model.scores and piece[i:] in model.scores and piece[:i] in ids and piece[i:] in ids
    ]
    return models.BPE(
        dict(ids), halves, unk_token=vocabulary.unknown, fuse_unk=True, byte_fallback=model.has_bytes
    )


def _parse(data: bytes) -> SentencePieceModel:
    pieces, trainer, normalizer = [], {}, {}
    for number, value in _fields(data):
        if number == 1:
            pieces.append(dict(_fields(value)))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    if not pieces:
        raise KeyError("no pieces")
    return SentencePieceModel(
        pieces=tuple(piece[1].decode() for piece in pieces),
        scores={
            piece[1].decode(): _score(piece)
            for piece in pieces
            if piece.get(3, _NORMAL) in (_NORMAL, _USER_DEFINED)
        },
        is_bpe=trainer.get(3) == _BPE,
        has_bytes=any(piece.get(3) == _BYTE for piece in pieces),
        replacements=_replacements(normalizer.get(2, b"")),
        adds_prefix=bool(normalizer.get(3, True)),
        trims=bool(normalizer.get(4, True)),
    )


def _score(piece: Mapping[int, Any]) -> float:
    """Raises: ValueError: tokenizer.json has no place for what is not finite."""
    score: float = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
    if not math.isfinite(score):
        raise ValueError(f"the score {score}")
    return score


def _replacements(data: bytes) -> normalizers.Normalizer | None:
    """Raises: ValueError: they are damaged. The package aborts where a tree claims more than there is."""
    if not data:
        return None
    size = _UNIT.unpack_from(data)[0]
    if size % _UNIT.size or size > len(data) - _UNIT.size:
        raise ValueError(f"a tree of {size} bytes")
    try:
        return normalizers.Precompiled(data)
    except Exception as error:  # the package raises nothing more special
        raise ValueError("replacements") from error


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values, bytes or int, of the fields of a message of protocol buffers, repeated ones too."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + size > len(data):
            raise IndexError("the end is missing")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number, and what is behind it."""
    value = shift = 0
    while shift < _LONGEST_NUMBER:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number without an end")
