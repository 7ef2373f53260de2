# SPDX-License-Identifier: BSD-3-Clause
"""Tokenizers made of SentencePiece models against those of transformers, and against SentencePiece."""

import json
import math
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer
from transformers import M2M100Tokenizer, MarianTokenizer

from fastertransformer.cli.checkpoint import find_tokenizer

MARIAN, M2M100, OTHERS = "source.spm", "sentencepiece.bpe.model", "spiece.model"

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


def train(text: str, place: Path, kind: str, **how: object) -> list[str]:
    """A model of `text`, and its pieces."""
    (place / "text").write_text(text)
    prefix = str(place / "trained")
    sentencepiece.SentencePieceTrainer.train(
        input=str(place / "text"),
        model_prefix=prefix,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 120, **how},
    )
    model = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    return [model.id_to_piece(i) for i in range(model.vocab_size())]


def name_family(folder: Path, name: object) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": name}))


def name_languages(folder: Path) -> None:
    named = [{"content": LANGUAGES[0]}, *LANGUAGES[1:]]
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": named}))


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
    name_family(folder, "m2m_100")
    name_languages(folder)
    return M2M100Tokenizer(str(folder / "vocab.json"), str(folder / M2M100))


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


HOW = {
    "t5": {},
    "mt5-bytes": {"byte_fallback": True, "vocab_size": 420, "normalization_rule_name": "identity"},
    "umt5-blanks": {"remove_extra_whitespaces": False, "add_dummy_prefix": False},
}
"""What the models are trained with, by the family and a word about it."""


@pytest.mark.parametrize("name", HOW)
def test_t5_and_its_like(folder, name):
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    train(SOURCE, folder, "unigram", **special, **HOW[name])
    (folder / "trained.model").rename(folder / OTHERS)
    name_family(folder, name.partition("-")[0])
    (folder / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 3}))
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / OTHERS))
    tokenizer, size = found_in(folder), model.vocab_size()
    for text in TEXTS:
        ids = model.encode(text)
        assert tokenizer.encode(text).ids == [*ids, 1], text
        assert tokenizer.decode([*ids, 1]) == model.decode([number for number in ids if number != 2]), text
    assert tokenizer.encode("the <extra_id_0>").ids[-2:] == [size + 2, 1]


def test_pegasus(folder):
    train(SOURCE, folder, "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "trained.model").rename(folder / OTHERS)
    name_family(folder, "pegasus")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / OTHERS))
    tokenizer = found_in(folder)
    for text in TEXTS:
        assert tokenizer.encode(text).ids == [*(number + 103 for number in model.encode(text)), 1], text
    assert tokenizer.token_to_id("<mask_2>") == 3


def test_mbart50(folder):
    train(SOURCE, folder, "unigram")
    (folder / "trained.model").rename(folder / M2M100)
    name_family(folder, "mbart")
    name_languages(folder)
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / M2M100))
    tokenizer, size = found_in(folder), model.vocab_size()
    for text in TEXTS:
        ids = [3 if number == model.unk_id() else number + 1 for number in model.encode(text)]
        assert tokenizer.encode(f"{LANGUAGES[2]} {text}").ids == [size + 3, *ids, 2], text
    assert tokenizer.token_to_id("<mask>") == size + 4


@pytest.fixture
def deberta(folder):
    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    train(SOURCE, folder, "unigram", pad_id=0, bos_id=1, eos_id=2, unk_id=3, **names)
    (folder / "trained.model").rename(folder / "spm.model")
    name_family(folder, "deberta-v2")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_deberta(deberta):
    model = sentencepiece.SentencePieceProcessor(model_file=str(deberta / "spm.model"))
    tokenizer, size = found_in(deberta), model.vocab_size()
    for text in TEXTS:
        assert tokenizer.encode(text).ids == [1, *model.encode(text), 2], text
    pair = tokenizer.encode(TEXTS[0], TEXTS[1])
    first, second = model.encode(TEXTS[0]), model.encode(TEXTS[1])
    assert pair.ids == [1, *first, 2, *second, 2]
    assert pair.type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer.encode("the [MASK]").ids[-2:] == [size, 2]


def test_letters_that_deberta_would_change(deberta, capsys):
    (deberta / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert find_tokenizer(deberta) is None
    assert_told(capsys, "do_lower_case is not supported")


@pytest.mark.parametrize("family", ["xlnet", ["t5"]])
def test_families_whose_ids_are_not_known(folder, capsys, family):
    train(SOURCE, folder, "unigram")
    (folder / "trained.model").rename(folder / OTHERS)
    name_family(folder, family)
    assert find_tokenizer(folder) is None
    assert_told(capsys, f"nothing here knows the ids of a SentencePiece model of {family!r}")


@pytest.mark.parametrize("count", [-1, "3", 1 << 30])
def test_sentinels_that_cannot_be_counted(folder, capsys, count):
    train(SOURCE, folder, "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "trained.model").rename(folder / OTHERS)
    name_family(folder, "t5")
    (folder / "tokenizer_config.json").write_text(json.dumps({"extra_ids": count}))
    assert find_tokenizer(folder) is None
    assert_told(capsys, f"extra_ids is {count!r}; allowed is an integer in [0, 4194304)")


def assert_told(capsys, message: str) -> None:
    """Wherever long paths break the lines."""
    assert "".join(message.split()) in "".join(capsys.readouterr().err.split())


def damage(folder: Path) -> None:
    (folder / MARIAN).write_bytes((folder / MARIAN).read_bytes()[:999])


def change_scores(folder: Path) -> None:
    """Of every piece to NaN."""
    data = (folder / MARIAN).read_bytes()
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    for piece in {model.get_score(number) for number in range(model.vocab_size())} - {0.0}:
        data = data.replace(struct.pack("<f", piece), struct.pack("<f", math.nan))
    (folder / MARIAN).write_bytes(data)


def replacements(data: bytes) -> Callable[[Path], None]:
    """Makes `data` what a model without replacements of characters has in their place."""
    message = b"\x12" + bytes([len(data)]) + data

    def change(folder: Path) -> None:
        with (folder / MARIAN).open("ab") as file:
            file.write(b"\x1a" + bytes([len(message)]) + message)

    return change


def change_ids(**ids: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        known = json.loads((folder / "vocab.json").read_text())
        (folder / "vocab.json").write_text(json.dumps(known | ids))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage, "source.spm is damaged or no SentencePiece model"),
        (
            lambda folder: (folder / MARIAN).write_bytes(b""),
            "source.spm is damaged or no SentencePiece model",
        ),
        (
            lambda folder: (folder / MARIAN).write_bytes(b"\xff" * 4_000_000),
            "source.spm is damaged or no SentencePiece model",
        ),
        (change_scores, "source.spm is damaged or no SentencePiece model"),
        (replacements(b"\xfc\xff\xff\xff-"), "source.spm is damaged or no SentencePiece model"),
        (replacements(b"\0\0\0\0\xff"), "source.spm is damaged or no SentencePiece model"),
        (change_ids(a="b"), "vocab.json: 'a' is 'b'; allowed is an integer in [0, 4194304)"),
        (change_ids(a=-1), "vocab.json: 'a' is -1; allowed is an integer in [0, 4194304)"),
        (change_ids(a=1 << 30), "vocab.json: 'a' is 1073741824; allowed is an integer in [0, 4194304)"),
        (change_ids(a=1), "vocab.json: 'a' is 1, as '<unk>' is"),
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


@pytest.mark.parametrize("named", [None, [], "__de__", 5, [7], [{"content": 7}], [{}]])
def test_languages_that_nobody_names(folder, capsys, named):
    write_m2m100(folder)
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": named}))
    assert find_tokenizer(folder) is None
    assert_told(capsys, f"names no languages in additional_special_tokens: {named!r}")
    (folder / "special_tokens_map.json").unlink()
    assert find_tokenizer(folder) is None
    assert_told(capsys, "special_tokens_map.json cannot be read")
