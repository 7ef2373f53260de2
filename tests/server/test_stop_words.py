# SPDX-License-Identifier: BSD-3-Clause
"""Stop words that are longer than everything that comes, and those that come with several tokens at once."""

import random
import time

import pytest

from fastertransformer.messages import FinishReason, Output, Request, SamplingParams, token_ids
from fastertransformer.server.call import Row
from fastertransformer.server.contracts.text_call import TextRow
from fastertransformer.server.detokenizer import Detokenizer
from fastertransformer.server.stop_words import StopWords, shortest


def test_a_stop_word_of_a_megabyte_takes_no_time():
    """Every response of a model instance waits for it."""
    words = StopWords(["word " * 200_000])
    begin = time.perf_counter()
    pieces = [words.push(piece) for piece in ("w", "ord", " ", "wor", "k")]
    assert time.perf_counter() - begin < 1
    assert pieces == ["", "", "", "", "word work"]
    assert not words.found


def test_thousands_of_words_that_begin_alike_take_no_time():
    words = StopWords(shortest("a" * 500 + str(i) for i in range(8192)))
    begin = time.perf_counter()
    pieces = [words.push("a") for _ in range(300)]
    assert time.perf_counter() - begin < 2
    assert set(pieces) == {""}
    assert words.push("b") == "a" * 300 + "b"


def test_every_text_ends_at_the_word_that_is_complete_first():
    draw = random.Random(0)
    for _ in range(2000):
        text, *words = ("".join(draw.choices("ab", k=draw.randint(1, 9))) for _ in range(6))
        ends = [text.find(word) + len(word) for word in words if word in text]
        seen = text[: min(ends)] if ends else text
        expected = min((seen.find(word) for word in words if word in seen), default=len(text))
        stop_words = StopWords(shortest(words))
        pieces = [stop_words.push(character, place == len(text)) for place, character in enumerate(text, 1)]
        assert "".join(pieces) == text[:expected], (text, words)
        assert stop_words.found == bool(ends)


@pytest.mark.parametrize("steps", [["w", "x", "y", "z", "!"], ["wx", "yz!"], ["wxyz!"]])
@pytest.mark.parametrize("reason", [None, FinishReason.LENGTH, FinishReason.STOP])
def test_tokens_that_come_together_are_read_as_those_that_come_alone(steps, reason):
    """The word that is complete first ends the text, also where a longer one began before it."""
    request = Request(0, token_ids((0,)), SamplingParams(max_tokens=8))
    decode = lambda ids: "".join(map(chr, ids))  # noqa: E731
    text = TextRow(Row(request), (ord("!"),), Detokenizer(decode, (0,)), StopWords(shortest(["y", "xyz"])))
    for number, step in enumerate(steps, 1):
        ends = reason if number == len(steps) else None
        text.row.update(Output(0, tuple(map(ord, step)), finish_reason=ends), 0.0)
        if text.advance():
            break  # the engine goes on no more
    assert (text.text, text.read, text.row.finish_reason) == ("wx", 3, FinishReason.STOP)
