# SPDX-License-Identifier: BSD-3-Clause
"""Tokenizers made of SentencePiece models against those of transformers, and against SentencePiece."""

import json

import pytest
import sentencepiece
from sentencepiece_folders import (
    FRENCH,
    INDENTED,
    LANGUAGES,
    M2M100,
    OTHERS,
    SOURCE,
    TEXTS,
    found_in,
    name_family,
    name_languages,
    train,
    write_deberta,
    write_llama,
    write_m2m100,
    write_marian,
)


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


@pytest.fixture
def llama(folder):
    return write_llama(folder)


@pytest.mark.parametrize("family", ["llama", "mixtral", "its own"])
def test_llama(llama, family):
    if family == "its own":
        (llama / "config.json").rename(llama / "config.ini")
        (llama / "config.ini").write_text("[llama]\nhead_num = 4\n")
    else:
        name_family(llama, family)
    model = sentencepiece.SentencePieceProcessor(model_file=str(llama / "tokenizer.model"))
    tokenizer = found_in(llama)
    for text in (*TEXTS, INDENTED, "    a\n        b   "):
        ids = model.encode(text)
        assert tokenizer.encode(text).ids == [1, *ids], text
        assert tokenizer.decode([1, *ids, 2]) == model.decode(ids), text
    assert tokenizer.encode("a</s>").ids[-1] == 2


@pytest.mark.parametrize(
    ("settings", "first", "last"),
    [({"add_eos_token": True}, [1], [2]), ({"add_bos_token": False}, [], []), ({"legacy": False}, [1], [])],
)
def test_what_stands_around_a_text_for_llama(llama, settings, first, last):
    (llama / "tokenizer_config.json").write_text(json.dumps(settings))
    model = sentencepiece.SentencePieceProcessor(model_file=str(llama / "tokenizer.model"))
    tokenizer = found_in(llama)
    assert tokenizer.encode(TEXTS[0]).ids == [*first, *model.encode(TEXTS[0]), *last]
    blank = [] if "legacy" in settings else ["▁"]
    assert tokenizer.encode("</s>1", add_special_tokens=False).tokens == ["</s>", *blank, "1"]


def test_tokens_that_were_added_to_llama(llama):
    size = sentencepiece.SentencePieceProcessor(model_file=str(llama / "tokenizer.model")).vocab_size()
    (llama / "added_tokens.json").write_text(json.dumps({"<|im_end|>": size + 1, "[PAD]": size}))
    tokenizer = found_in(llama)
    assert tokenizer.encode("a<|im_end|>[PAD]").ids[-2:] == [size + 1, size]


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


def test_deberta(folder):
    deberta = write_deberta(folder)
    model = sentencepiece.SentencePieceProcessor(model_file=str(deberta / "spm.model"))
    tokenizer, size = found_in(deberta), model.vocab_size()
    for text in TEXTS:
        assert tokenizer.encode(text).ids == [1, *model.encode(text), 2], text
    pair = tokenizer.encode(TEXTS[0], TEXTS[1])
    first, second = model.encode(TEXTS[0]), model.encode(TEXTS[1])
    assert pair.ids == [1, *first, 2, *second, 2]
    assert pair.type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer.encode("the [MASK]").ids[-2:] == [size, 2]
