# SPDX-License-Identifier: BSD-3-Clause
"""Text of vocabularies that spell what they have no token for in bytes, as Llama's, Mistral's and Gemma's."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise

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


def test_text_does_not_depend_on_how_many_tokens_come_at_once(tokenizer):
    """To the decoder, bytes that are no character spoil characters in front of them, which may be sent."""
    draw = random.Random(0)
    for _ in range(300):
        prompt = tokenizer.encode(draw.choice(PROMPTS)).ids
        tokens = tokenizer.encode("".join(draw.choices("ab é世🙂", k=9))).ids
        for _ in range(draw.randint(1, 4)):
            tokens.insert(draw.randrange(len(tokens)), draw.randrange(257))
        alone = pieces(tokenizer, prompt, [[token] for token in tokens])
        cuts = [0, *sorted(draw.sample(range(1, len(tokens)), 3)), len(tokens)]
        together = [tokens[begin:end] for begin, end in pairwise(cuts)]
        assert "".join(alone) == "".join(pieces(tokenizer, prompt, together))


def test_what_never_becomes_text_is_not_decoded_again_and_again(tokenizer):
    """A model may be brought to say the same byte, or what is no text, for ever; all others wait for it."""
    byte, special = tokenizer.token_to_id("<0xE4>"), tokenizer.token_to_id(SPECIAL)
    prompt, count, decoded = tokenizer.encode("Hi").ids, 600, []

    def decode(ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return tokenizer.decode(list(ids))

    detokenizer = Detokenizer(decode, prompt)
    text = "".join(detokenizer.push([byte]) for _ in range(count))
    assert text.strip("\N{REPLACEMENT CHARACTER}") == ""
    rest = detokenizer.push((), last=True)
    assert len(rest) < 5
    assert len(text + rest) == count

    detokenizer = Detokenizer(decode, prompt)
    assert "".join(detokenizer.push([special]) for _ in range(count)) == ""
    assert detokenizer.push(tokenizer.encode(" a").ids) == " a"
    assert max(decoded) < 20
