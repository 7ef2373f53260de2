# SPDX-License-Identifier: BSD-3-Clause
"""tokenizer.json out of SentencePiece models: every family has ids of its own, those of transformers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelLoadError
from .sentencepiece import SentencePieceModel, Vocabulary, convert, read_model

_MAX_IDS = 1 << 22
"""Of the largest vocabularies many times; a tokenizer has a place for every id up to its largest one."""


def write_tokenizer(file: Path, folder: Path) -> None:
    """tokenizer.json into `folder`.

    Args:
        file: a name of `MODELS`, beside the tokenizer's other files.

    Raises:
        ModelLoadError: a file is missing or damaged, or there is no rule for the ids.
    """
    model = read_model(file)
    vocabulary = MODELS[file.name](file.parent, model)
    needed = (vocabulary.unknown, vocabulary.first, vocabulary.last)
    missing = [token for token in needed if token and token not in vocabulary.ids]
    if missing:
        raise ModelLoadError(f"the vocabulary in {file.parent} has no {' and no '.join(missing)}")
    convert(model, vocabulary).save(str(folder / "tokenizer.json"))


def _marian(folder: Path, _: SentencePieceModel) -> Vocabulary:
    if (folder / "target_vocab.json").exists():
        raise ModelLoadError(f"{folder} has a vocabulary for each language, and tokenizer.json one for both")
    ids = _stored_ids(folder / "vocab.json")
    return Vocabulary(ids, [token for token in ids if token.startswith(">>") and token.endswith("<<")])


def _languages(folder: Path) -> list[str]:
    file, key = folder / "special_tokens_map.json", "additional_special_tokens"
    named = _read(file).get(key)
    tokens = [_content(token) for token in named] if isinstance(named, list) else []
    if not tokens or not all(tokens):
        raise ModelLoadError(f"{file} names no languages in {key}: {named!r}")
    return tokens


def _content(token: Any) -> str:
    """The text of a token, empty where it has none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _m2m100(folder: Path, _: SentencePieceModel) -> Vocabulary:
    """Those of vocab.json, and languages behind them."""
    return Vocabulary(_stored_ids(folder / "vocab.json"), _languages(folder))


def _mbart50(folder: Path, model: SentencePieceModel) -> Vocabulary:
    """Behind special tokens in an order of their own the model's other ones, then languages and a mask."""
    whole = [*_languages(folder), "<mask>"]
    return _numbered(["<s>", "<pad>", "</s>", "<unk>", *model.pieces[3:]], whole)


def _by_config(folder: Path, model: SentencePieceModel) -> Vocabulary:
    family = "llama" if _is_own_llama(folder) else _read(folder / "config.json").get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise ModelLoadError(f"{folder}: nothing here knows the ids of a SentencePiece model of {family!r}")
    return _FAMILIES[family](folder, model)


def _t5(folder: Path, model: SentencePieceModel) -> Vocabulary:
    """The model's own, and sentinels behind them, the last one first."""
    file = folder / "tokenizer_config.json"
    count = _read(file).get("extra_ids", 100)
    if not _is_id(count):
        raise ModelLoadError(f"{file}: extra_ids is {count!r}; allowed is an integer in [0, {_MAX_IDS})")
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(count))]
    return _numbered(model.pieces, sentinels)


def _pegasus(_: Path, model: SentencePieceModel) -> Vocabulary:
    """Behind padding and end, masks and tokens without a use, then the model's other ones."""
    masks, unused = ["<mask_1>", "<mask_2>"], [f"<unk_{number}>" for number in range(2, 103)]
    return Vocabulary(_ids(["<pad>", "</s>", *masks, *unused, *model.pieces[2:]]), masks)


def _deberta(folder: Path, model: SentencePieceModel) -> Vocabulary:
    settings = _read(folder / "tokenizer_config.json")
    for key in ("do_lower_case", "split_by_punct"):
        if settings.get(key):
            raise ModelLoadError(f"{folder / 'tokenizer_config.json'}: {key} is not supported")
    ids = _ids([*model.pieces, "[MASK]"])
    return Vocabulary(ids, ["[PAD]", "[MASK]"], unknown="[UNK]", first="[CLS]", last="[SEP]")


def _is_own_llama(folder: Path) -> bool:
    """Whether FasterTransformer's files are there, which have no config.json."""
    try:
        return "[llama]" in (folder / "config.ini").read_text().split()
    except (OSError, UnicodeDecodeError):
        return False


def _llama(folder: Path, model: SentencePieceModel) -> Vocabulary:
    """The model's own, and those of added_tokens.json."""
    settings, added = folder / "tokenizer_config.json", folder / "added_tokens.json"
    known = _read(settings) if settings.exists() else {}
    more = _stored_ids(added) if added.exists() else {}
    return Vocabulary(
        ids={**_ids(model.pieces), **more},
        whole=sorted(more, key=lambda token: more[token]),
        first="<s>" if known.get("add_bos_token", True) else "",
        ends=bool(known.get("add_eos_token", False)),
        prefix="always" if known.get("legacy", True) else "first",
    )


def _stored_ids(file: Path) -> dict[str, int]:
    """Raises: ModelLoadError: a token of the file has no id, or that of another one."""
    owners: dict[int, str] = {}
    ids = _read(file)
    for token, number in ids.items():
        if not _is_id(number):
            raise ModelLoadError(f"{file}: {token!r} is {number!r}; allowed is an integer in [0, {_MAX_IDS})")
        if owners.setdefault(number, token) != token:
            raise ModelLoadError(f"{file}: {token!r} is {number}, as {owners[number]!r} is")
    return ids


def _is_id(number: object) -> bool:
    return type(number) is int and 0 <= number < _MAX_IDS


def _numbered(tokens: Sequence[str], whole: Sequence[str]) -> Vocabulary:
    """Whole ones behind the others."""
    return Vocabulary(_ids([*tokens, *whole]), whole)


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


_FAMILIES = {
    "deberta-v2": _deberta,
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _llama,
    "m2m_100": _m2m100,
    "mbart": _mbart50,
    "pegasus": _pegasus,
    "t5": _t5,
    "mt5": _t5,
    "umt5": _t5,
}
MODELS: dict[str, Callable[[Path, SentencePieceModel], Vocabulary]] = {
    "source.spm": _marian,
    "sentencepiece.bpe.model": _by_config,
    "spiece.model": _by_config,
    "spm.model": _by_config,
    "tokenizer.model": _by_config,
}
"""By the name of the model's file."""


def _read(file: Path) -> dict[str, Any]:
    from ..models.checkpoint.huggingface import read_json  # imports torch, which takes seconds

    return read_json(file)
