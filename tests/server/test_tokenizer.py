# SPDX-License-Identifier: BSD-3-Clause
"""Long texts: other threads go on meanwhile, and what is too long is cut as the tokenizer would cut it."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from fastertransformer.server.tokenizer import TextTokenizer

TEMPLATES = {
    "none": None,
    "bert": TemplateProcessing("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", [("<s>", 1), ("</s>", 2)]),
    "roberta": TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 1), ("</s>", 2)]),
}
MEGABYTE = "ab " * 333_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tiny_models.write_tokenizer(path)
    return path


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_are_cut_as_by_the_tokenizer(folder: Path, name: str) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if TEMPLATES[name] is not None:
        tokenizer.post_processor = TEMPLATES[name]
    file = folder / f"{name}.json"
    tokenizer.save(str(file))
    own, draw = TextTokenizer(str(file)), random.Random(0)
    for _ in range(500):
        text, pair = ("".join(draw.choices("aé fox</s>", k=draw.randrange(12))) for _ in range(2))
        given, longest = (text, draw.choice([pair, None])), draw.randint(5, 20)
        tokenizer.enable_truncation(longest)
        expected, found = tokenizer.encode(*given), own.encode_pair(*given, longest)
        assert (found.ids, found.type_ids) == (expected.ids, expected.type_ids), (given, longest)
        assert found.offsets == expected.offsets


@pytest.mark.parametrize(
    "encode",
    [
        lambda tokenizer: tokenizer.encode(MEGABYTE),
        lambda tokenizer: tokenizer.ids(MEGABYTE),
        lambda tokenizer: tokenizer.encode_pair(MEGABYTE, None, None),
    ],
    ids=["text", "word", "pair"],
)
def test_other_threads_go_on_while_a_long_text_is_read(
    folder: Path, encode: Callable[[TextTokenizer], object]
) -> None:
    """They stream what others asked for."""
    reader = threading.Thread(target=encode, args=[TextTokenizer(str(folder))])
    turns = 0
    reader.start()
    while reader.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 100  # some, where the lock is held while it reads
