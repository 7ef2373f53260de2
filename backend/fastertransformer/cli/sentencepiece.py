# SPDX-License-Identifier: BSD-3-Clause
"""tokenizer.json for Marian and M2M100: a SentencePiece model that cuts texts, and vocab.json for the ids.

transformers has these two in Python alone. (sentencepiece_model.proto of github.com/google/sentencepiece)
"""

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

_UNKNOWN, _END, _PADDING, _BEGIN = "<unk>", "</s>", "<pad>", "<s>"
_NORMAL, _USER_DEFINED = 1, 4
"""Types of pieces that texts are cut into."""
_BPE = 2
"""A type of model; others are unigrams."""
_NOT_CUT = -1e6
"""Score of a character that vocab.json has beside the pieces, such as one of the target language: there is no
other way to cut it. Of what is longer, whose characters there may be, it is that times the length squared."""

MARIAN, M2M100 = "source.spm", "sentencepiece.bpe.model"
"""Names of the models' files."""


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What a file of that name holds, as far as it matters here."""

    scores: Mapping[str, float]
    """Of pieces."""
    is_bpe: bool
    characters: bytes
    """What is replaced by what before a text is cut."""


def write_tokenizer(model: Path, folder: Path) -> None:
    """tokenizer.json into `folder`.

    Args:
        model: source.spm of Marian or sentencepiece.bpe.model of M2M100, beside the tokenizer's other files.

    Raises:
        ModelLoadError: a file is missing or damaged, or there is a vocabulary for each side.
    """
    from ..models.checkpoint.huggingface import read_json  # imports torch, which takes seconds

    place = model.parent
    if (place / "target_vocab.json").exists():
        raise ModelLoadError(f"{place} has a vocabulary for each language, and tokenizer.json one for both")
    ids = read_json(place / "vocab.json")
    missing = [token for token in (_UNKNOWN, _END) if token not in ids]
    if missing:
        raise ModelLoadError(f"{place / 'vocab.json'} has no {' and no '.join(missing)}")
    if model.name == MARIAN:
        languages = [token for token in ids if token.startswith(">>") and token.endswith("<<")]
    else:
        file, key = place / "special_tokens_map.json", "additional_special_tokens"
        named = read_json(file).get(key, [])
        languages = [token if isinstance(token, str) else token["content"] for token in named]
        if not languages:
            raise ModelLoadError(f"{file} names no languages in {key}")
    convert(read_model(model), ids, languages).save(str(folder / "tokenizer.json"))


def read_model(path: Path) -> SentencePieceModel:
    """Raises: ModelLoadError: the file is no SentencePiece model."""
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, struct.error) as error:
        raise ModelLoadError(f"{path} is damaged or no SentencePiece model") from error


def convert(model: SentencePieceModel, ids: Mapping[str, int], languages: Sequence[str]) -> Tokenizer:
    """A tokenizer of `ids` that ends texts with </s>.

    Args:
        languages: tokens that name one, found in a text as they are; those without an id follow the others.
    """
    tokenizer = Tokenizer(_bpe(model, ids) if model.is_bpe else _unigram(model, ids))
    characters = [normalizers.Precompiled(model.characters)] if model.characters else []
    blanks = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence([*characters, *blanks])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, ids[_END])]
    )
    special = [token for token in (_BEGIN, _PADDING, _END, _UNKNOWN) if token in ids]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*special, *languages)])
    return tokenizer


def _unigram(model: SentencePieceModel, ids: Mapping[str, int]) -> models.Unigram:
    by_id = {number: token for token, number in ids.items()}
    tokens = [by_id.get(number, f"<{number}>") for number in range(max(by_id) + 1)]
    return models.Unigram(
        [(token, model.scores.get(token, _NOT_CUT * len(token) ** 2)) for token in tokens],
        ids[_UNKNOWN],
        False,
    )


def _bpe(model: SentencePieceModel, ids: Mapping[str, int]) -> models.BPE:
    """The better the score of a piece, the earlier its halves are joined, whichever they are."""
    pieces = sorted((piece for piece in model.scores if piece in ids), key=lambda p: -model.scores[p])
    halves = [
        (piece[:i], piece[i:])
        for piece in pieces
        for i in range(1, len(piece))
        if piece[:i] in model.scores and piece[i:] in model.scores and piece[:i] in ids and piece[i:] in ids
    ]
    return models.BPE(dict(ids), halves, unk_token=_UNKNOWN, fuse_unk=True)


def _parse(data: bytes) -> SentencePieceModel:
    scores: dict[str, float] = {}
    is_bpe, characters = False, b""
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            if piece.get(3, _NORMAL) in (_NORMAL, _USER_DEFINED):
                scores[piece[1].decode()] = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
        elif number == 2:
            is_bpe = dict(_fields(value)).get(3) == _BPE
        elif number == 3:
            characters = dict(_fields(value)).get(2, b"")
    if not scores:
        raise KeyError("no pieces")
    return SentencePieceModel(scores, is_bpe, characters)


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
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
