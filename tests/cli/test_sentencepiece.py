# SPDX-License-Identifier: BSD-3-Clause
"""Tokenizers of Marian and M2M100 against transformers', which has them in Python."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer
from transformers import M2M100Tokenizer, MarianTokenizer

from fastertransformer.cli.checkpoint import find_tokenizer
from fastertransformer.cli.sentencepiece import M2M100, MARIAN

SOURCE = (Path(__file__).parents[2] / "LICENSE").read_text()
TARGET = (
    "Die Weitergabe und Verwendung in Quell- und Binärform, mit oder ohne Veränderung, ist erlaubt, sofern"
)
TARGET += (
    " die folgenden Bedingungen erfüllt sind: Quelltexte müssen den obigen Urheberrechtsvermerk enthalten."
)
TEXTS = [
    *filter(None, SOURCE.splitlines()),
    *TARGET.split(". "),
    "",
    "  two  blanks ",
    "a\tb\nc",
    "Ünï çödé „quotes“ 你好 😀 ok",
    "ﬁ ligature ① ½",
    "1234567890 3.14 don't",
    "A" * 50,
]
FRENCH = ">>fra<<"
LANGUAGES = ["__de__", "__en__", "__fr__"]


def train(text: str, place: Path, kind: str) -> list[str]:
    """A model of `text`, and its pieces."""
    (place / "text").write_text(text)
    prefix = str(place / "trained")
    sentencepiece.SentencePieceTrainer.train(
        input=str(place / "text"),
        model_prefix=prefix,
        vocab_size=120,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    return [model.id_to_piece(i) for i in range(model.vocab_size())]


def write_ids(folder: Path, first: list[str], pieces: list[str], last: list[str]) -> None:
    """vocab.json, whose order is not the model's."""
    rest = [piece for piece in dict.fromkeys(pieces) if piece not in {"<s>", "</s>", "<unk>"}]
    random.Random(0).shuffle(rest)
    ids = {token: number for number, token in enumerate([*first, *rest, *last])}
    (folder / "vocab.json").write_text(json.dumps(ids))


def write_marian(folder: Path, kind: str) -> MarianTokenizer:
    pieces = []
    for name, text in ((MARIAN, SOURCE), ("target.spm", TARGET)):
        pieces += train(text, folder, kind)
        (folder / "trained.model").rename(folder / name)
    write_ids(folder, ["</s>", "<unk>"], pieces, [FRENCH, "<pad>"])
    return MarianTokenizer(str(folder / MARIAN), str(folder / "target.spm"), str(folder / "vocab.json"))


def write_m2m100(folder: Path) -> M2M100Tokenizer:
    pieces = train(SOURCE + TARGET, folder, "bpe")
    (folder / "trained.model").rename(folder / M2M100)
    write_ids(folder, ["<s>", "<pad>", "</s>", "<unk>"], pieces, [])
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"additional_special_tokens": [{"content": LANGUAGES[0]}, *LANGUAGES[1:]]})
    )
    return M2M100Tokenizer(str(folder / "vocab.json"), str(folder / M2M100))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "model"
    place.mkdir()
    return place


def found_in(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(find_tokenizer(folder) / "tokenizer.json"))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_marian(folder, kind):
    reference = write_marian(folder, kind)
    tokenizer = found_in(folder)
    for text in (*TEXTS, f"{FRENCH} {TEXTS[0]}", FRENCH + TEXTS[1]):
        ids = reference(text).input_ids
        assert tokenizer.encode(text).ids == ids, text
        plain = reference.decode(ids, skip_special_tokens=True).removeprefix(FRENCH).strip()
        assert tokenizer.decode(ids) == plain, text


def test_m2m100(folder):
    reference = write_m2m100(folder)
    tokenizer = found_in(folder)
    size = len(json.loads((folder / "vocab.json").read_text()))
    assert [tokenizer.token_to_id(language) for language in LANGUAGES] == [size, size + 1, size + 2]
    for text in TEXTS:
        pieces = reference.convert_tokens_to_ids(reference.tokenize(text))
        end = reference.eos_token_id
        assert tokenizer.encode(text).ids == [*pieces, end], text
        assert tokenizer.encode(f"__en__ {text}").ids == [size + 1, *pieces, end], text
        assert tokenizer.decode([size + 1, *pieces, end]) == reference.decode(
            pieces, skip_special_tokens=True
        ), text


def assert_told(capsys, message: str) -> None:
    """Wherever long paths break the lines."""
    assert "".join(message.split()) in "".join(capsys.readouterr().err.split())


def damage(folder: Path) -> None:
    (folder / MARIAN).write_bytes((folder / MARIAN).read_bytes()[:999])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage, "source.spm is damaged or no SentencePiece model"),
        (
            lambda folder: (folder / MARIAN).write_bytes(b""),
            "source.spm is damaged or no SentencePiece model",
        ),
        (
            lambda folder: (folder / "vocab.json").unlink(),
            "vocab.json cannot be read: No such file or directory",
        ),
        (lambda folder: (folder / "vocab.json").write_text('{"a": 0}'), "has no <unk> and no </s>"),
        (
            lambda folder: (folder / "target_vocab.json").write_text("{}"),
            "has a vocabulary for each language, and tokenizer.json one for both",
        ),
    ],
)
def test_what_makes_no_tokenizer(folder, change, message, capsys):
    write_marian(folder, "unigram")
    change(folder)
    assert find_tokenizer(folder) is None
    assert_told(capsys, message)


def test_languages_that_nobody_names(folder, capsys):
    write_m2m100(folder)
    (folder / "special_tokens_map.json").write_text("{}")
    assert find_tokenizer(folder) is None
    assert_told(capsys, "names no languages in additional_special_tokens")
    (folder / "special_tokens_map.json").unlink()
    assert find_tokenizer(folder) is None
    assert_told(capsys, "special_tokens_map.json cannot be read")
