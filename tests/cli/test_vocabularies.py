# SPDX-License-Identifier: BSD-3-Clause
"""Vocabularies of SentencePiece models that make no tokenizer are named, and why."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from sentencepiece_folders import (
    MARIAN,
    OTHERS,
    SOURCE,
    assert_told,
    name_family,
    train,
    write_deberta,
    write_llama,
    write_m2m100,
    write_marian,
)

from fastertransformer.cli.checkpoint import find_tokenizer


def test_added_tokens_without_a_number(folder, capsys):
    llama = write_llama(folder)
    (llama / "added_tokens.json").write_text(json.dumps({"<|im_end|>": -4}))
    assert find_tokenizer(llama) is None
    assert_told(capsys, "added_tokens.json: '<|im_end|>' is -4; allowed is an integer in [0, 4194304)")


def test_letters_that_deberta_would_change(folder, capsys):
    deberta = write_deberta(folder)
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
