# SPDX-License-Identifier: BSD-3-Clause
"""Folders with SentencePiece models, trained here, as checkpoints of several families have them."""

import json
import random
from pathlib import Path

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
LLAMA = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
    "vocab_size": 420,
}
"""What its model was trained with."""
INDENTED = SOURCE.replace("\n", "\n        ") * 2


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


def write_llama(folder: Path) -> Path:
    pieces = train(INDENTED, folder, "bpe", **LLAMA)
    assert "▁" * 4 in pieces
    (folder / "trained.model").rename(folder / "tokenizer.model")
    name_family(folder, "llama")
    return folder


def write_deberta(folder: Path) -> Path:
    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    train(SOURCE, folder, "unigram", pad_id=0, bos_id=1, eos_id=2, unk_id=3, **names)
    (folder / "trained.model").rename(folder / "spm.model")
    name_family(folder, "deberta-v2")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def found_in(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(find_tokenizer(folder) / "tokenizer.json"))


def assert_told(capsys, message: str) -> None:
    """Wherever long paths break the lines."""
    assert "".join(message.split()) in "".join(capsys.readouterr().err.split())
