# SPDX-License-Identifier: BSD-3-Clause
"""Tokenizers from before tokenizer.json are turned into one, as far as transformers can."""

import json

from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import ByT5Tokenizer

from fastertransformer.cli.checkpoint import find_tokenizer

TEXT = "an old tokenizer still reads new texts"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "old", "token", "##izer", "new"]
OPT = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}


def write_config(folder, model_type, **tokenizer):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def test_pairs_of_bytes(folder):
    """As OPT is published."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator([TEXT], vocab_size=300, special_tokens=["<s>", "<pad>", "</s>"])
    trainer.save_model(str(folder))
    write_config(folder, "opt", **OPT)
    found = find_tokenizer(folder)
    assert found != folder
    tokenizer = Tokenizer.from_file(str(found / "tokenizer.json"))
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert ids == trainer.encode(TEXT).ids
    assert tokenizer.decode(ids) == TEXT
    assert find_tokenizer(folder) == found


def test_pieces_of_words(folder):
    """As BERT was published."""
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    write_config(folder, "bert", do_lower_case=True)
    tokenizer = Tokenizer.from_file(str(find_tokenizer(folder) / "tokenizer.json"))
    expected = ["[CLS]", "new", "[UNK]", "token", "##izer", "[SEP]"]
    assert tokenizer.encode("New olds tokenizer").tokens == expected


def test_what_cannot_be_read_is_named(folder, capsys):
    (folder / "merges.txt").write_bytes(b"\x00 no vocabulary")
    write_config(folder, "opt", **OPT)
    assert find_tokenizer(folder) is None
    assert f"thetokenizerof{folder / 'merges.txt'}" in "".join(capsys.readouterr().err.split())


def test_a_tokenizer_that_is_there_is_taken(folder):
    write_config(folder, "bert")
    assert find_tokenizer(folder) is None
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer.json").write_text("{}")
    assert find_tokenizer(folder) == folder


def test_bytes_are_tokens_of_byt5(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    found, reference = find_tokenizer(folder), ByT5Tokenizer()
    tokenizer = Tokenizer.from_file(str(found / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == len(reference) == 384
    for text in (TEXT, "Ünï 你好 😀\n\0", "", "a<extra_id_7> b</s>c", "<0x41>"):
        ids = reference(text).input_ids
        assert tokenizer.encode(text).ids == ids, text
        plain = reference.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids) == plain, text


def test_a_class_without_a_vocabulary(folder, capsys):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLNetTokenizer"}))
    assert find_tokenizer(folder) is None
    assert "novocabularyofwhicha'XLNetTokenizer'canbemade" in "".join(capsys.readouterr().err.split())
