# SPDX-License-Identifier: BSD-3-Clause
"""Text of vocabularies that spell what they have no token for in bytes, as Llama's, Mistral's and Gemma's."""

import json

import pytest
from tokenizers import Tokenizer

from fastertransformer.server.detokenizer import Detokenizer

BLANK = "▁"
SPECIAL = "<s>"
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
PROMPTS = ["Hi", "🙂🙂", "ab 世界世界", "é" * 9, "b 世a🙂"]


def byte_fallback(*end: dict[str, object]) -> Tokenizer:
    """Some letters and every byte; `end` are the last steps of decoding."""
    words = [SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), BLANK, *"abHi"]
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    decoders = [
        {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *end,
    ]
    model = {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": []}
    described = {
        "added_tokens": [{"id": 0, "content": SPECIAL, **added}],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {**model, "byte_fallback": True},
    }
    return Tokenizer.from_str(json.dumps(described))


@pytest.fixture(scope="module", params=["keeps blanks", "strips a blank"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return byte_fallback(*([STRIP] if request.param == "strips a blank" else []))


def pieces(tokenizer: Tokenizer, prompt: list[int], steps: list[list[int]]) -> list[str]:
    detokenizer = Detokenizer(lambda ids: tokenizer.decode(list(ids)), prompt)
    return [*map(detokenizer.push, steps), detokenizer.push((), last=True)]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("text", ["世 b", "é世", " a b", "🙂🙂 b"])
def test_a_prompt_that_ends_with_bytes_spoils_no_text(tokenizer, prompt, text):
    """Whatever part of its characters the end has that pieces are compared with."""
    ids = tokenizer.encode(prompt).ids
    found = pieces(tokenizer, ids, [[token] for token in tokenizer.encode(text).ids])
    assert "".join(found) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in found)
