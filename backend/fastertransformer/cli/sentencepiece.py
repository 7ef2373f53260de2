# SPDX-License-Identifier: BSD-3-Clause
"""tokenizer.json out of a SentencePiece model: the model cuts texts, and every family has ids of its own.

(sentencepiece_model.proto of github.com/google/sentencepiece; the ids are transformers')
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_NORMAL, _USER_DEFINED, _BYTE = 1, 4, 6
"""Types of pieces; texts are cut into those of the first two, and what is in neither into bytes."""
_BPE = 2
"""A type of model; others are unigrams."""
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
    characters: bytes = b""
    """What is replaced by what before a text is cut."""
    adds_prefix: bool = True
    """A text begins with a blank."""
    trims: bool = True
    """No blanks at its ends, and no two side by side."""


Ids = tuple[dict[str, int], list[str]]
"""Of all tokens, and those tokens that a text may hold as they are; of these some may follow the others."""


def write_tokenizer(file: Path, folder: Path) -> None:
    """tokenizer.json into `folder`.

    Args:
        file: a name of `MODELS`, beside the tokenizer's other files.

    Raises:
        ModelLoadError: a file is missing or damaged, or there is no rule for the ids.
    """
    model = read_model(file)
    ids, whole = MODELS[file.name](file.parent, model)
    missing = [token for token in (_UNKNOWN, _END) if token not in ids]
    if missing:
        raise ModelLoadError(f"the vocabulary in {file.parent} has no {' and no '.join(missing)}")
    convert(model, ids, whole).save(str(folder / "tokenizer.json"))


def _marian(folder: Path, _: SentencePieceModel) -> Ids:
    if (folder / "target_vocab.json").exists():
        raise ModelLoadError(f"{folder} has a vocabulary for each language, and tokenizer.json one for both")
    ids = _read(folder / "vocab.json")
    return ids, [token for token in ids if token.startswith(">>") and token.endswith("<<")]


def _languages(folder: Path) -> list[str]:
    file, key = folder / "special_tokens_map.json", "additional_special_tokens"
    named = _read(file).get(key, [])
    if not named:
        raise ModelLoadError(f"{file} names no languages in {key}")
    return [token if isinstance(token, str) else token["content"] for token in named]


def _m2m100(folder: Path, _: SentencePieceModel) -> Ids:
    """Those of vocab.json, and languages behind them."""
    return _read(folder / "vocab.json"), _languages(folder)


def _mbart50(folder: Path, model: SentencePieceModel) -> Ids:
    """Behind special tokens in an order of their own the model's other ones, then languages and a mask."""
    whole = [*_languages(folder), "<mask>"]
    return _numbered([_BEGIN, _PADDING, _END, _UNKNOWN, *model.pieces[3:], *whole]), whole


def _by_config(folder: Path, model: SentencePieceModel) -> Ids:
    family = _read(folder / "config.json").get("model_type")
    if family not in _FAMILIES:
        raise ModelLoadError(f"{folder}: nothing here knows the ids of a SentencePiece model of {family!r}")
    return _FAMILIES[family](folder, model)


def _t5(folder: Path, model: SentencePieceModel) -> Ids:
    """The model's own, and sentinels behind them, the last one first."""
    count = _read(folder / "tokenizer_config.json").get("extra_ids", 100)
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(count))]
    return _numbered([*model.pieces, *sentinels]), sentinels


def _pegasus(_: Path, model: SentencePieceModel) -> Ids:
    """Behind padding and end, masks and tokens without a use, then the model's other ones."""
    masks, unused = ["<mask_1>", "<mask_2>"], [f"<unk_{number}>" for number in range(2, 103)]
    return _numbered([_PADDING, _END, *masks, *unused, *model.pieces[2:]]), masks


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


_FAMILIES = {
    "m2m_100": _m2m100,
    "mbart": _mbart50,
    "pegasus": _pegasus,
    "t5": _t5,
    "mt5": _t5,
    "umt5": _t5,
}
MODELS: dict[str, Callable[[Path, SentencePieceModel], Ids]] = {
    "source.spm": _marian,
    "sentencepiece.bpe.model": _by_config,
    "spiece.model": _by_config,
}
"""What gives the ids, by the name of the model's file."""


def _read(file: Path) -> dict[str, Any]:
    from ..models.checkpoint.huggingface import read_json  # imports torch, which takes seconds

    return read_json(file)


def read_model(path: Path) -> SentencePieceModel:
    """Raises: ModelLoadError: the file is no SentencePiece model."""
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, struct.error) as error:
        raise ModelLoadError(f"{path} is damaged or no SentencePiece model") from error


def convert(model: SentencePieceModel, ids: Mapping[str, int], whole: Sequence[str]) -> Tokenizer:
    """A tokenizer of `ids` that ends texts with </s>.

    Args:
        whole: tokens that are found in a text as they are; those without an id follow the others.
    """
    tokenizer = Tokenizer(_bpe(model, ids) if model.is_bpe else _unigram(model, ids))
    steps: list[normalizers.Normalizer] = (
        [normalizers.Precompiled(model.characters)] if model.characters else []
    )
    steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")] if model.trims else []
    tokenizer.normalizer = normalizers.Sequence(steps)
    prefix = "always" if model.adds_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
    tokenizer.decoder = _decoder(model, prefix)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, ids[_END])]
    )
    special = [token for token in (_BEGIN, _PADDING, _END, _UNKNOWN) if token in ids]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*special, *whole)])
    return tokenizer


def _decoder(model: SentencePieceModel, prefix: str) -> decoders.Decoder:
    if not model.has_bytes:
        return decoders.Metaspace(prepend_scheme=prefix)
    trims = [decoders.Strip(" ", 1, 0)] if model.adds_prefix else []
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *trims])


def _unigram(model: SentencePieceModel, ids: Mapping[str, int]) -> models.Unigram:
    by_id = {number: token for token, number in ids.items()}
    tokens = [by_id.get(number, f"<{number}>") for number in range(max(by_id) + 1)]
    scores = [model.scores.get(token, _NOT_CUT * len(token) ** 2) for token in tokens]
    return models.Unigram(list(zip(tokens, scores, strict=True)), ids[_UNKNOWN], model.has_bytes)


def _bpe(model: SentencePieceModel, ids: Mapping[str, int]) -> models.BPE:
    """The better the score of a piece, the earlier its halves are joined, whichever they are."""
    pieces = sorted((piece for piece in model.scores if piece in ids), key=lambda p: -model.scores[p])
    halves = [
        (piece[:i], piece[i:])
        for piece in pieces
        for i in range(1, len(piece))
        if piece[:i] in model.scores and piece[i:] in model.scores and piece[:i] in ids and piece[i:] in ids
    ]
    return models.BPE(dict(ids), halves, unk_token=_UNKNOWN, fuse_unk=True, byte_fallback=model.has_bytes)


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
            piece[1].decode(): struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            for piece in pieces
            if piece.get(3, _NORMAL) in (_NORMAL, _USER_DEFINED)
        },
        is_bpe=trainer.get(3) == _BPE,
        has_bytes=any(piece.get(3) == _BYTE for piece in pieces),
        characters=normalizer.get(2, b""),
        adds_prefix=bool(normalizer.get(3, True)),
        trims=bool(normalizer.get(4, True)),
    )


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
