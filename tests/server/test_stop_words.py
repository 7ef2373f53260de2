# SPDX-License-Identifier: BSD-3-Clause
"""Stop words that are longer than everything that comes, and those that come with several tokens at once."""

import time

import pytest

from fastertransformer.messages import FinishReason, Output, Request, SamplingParams, token_ids
from fastertransformer.server.call import Row
from fastertransformer.server.contracts.text_call import TextRow
from fastertransformer.server.detokenizer import Detokenizer
from fastertransformer.server.stop_words import StopWords


def test_a_stop_word_of_a_megabyte_takes_no_time():
    """Every response of a model instance waits for it."""
    words = StopWords(["word " * 200_000])
    begin = time.perf_counter()
    pieces = [words.push(piece) for piece in ("w", "ord", " ", "wor", "k")]
    assert time.perf_counter() - begin < 1
    assert pieces == ["", "", "", "", "word work"]
    assert not words.found


@pytest.mark.parametrize("steps", [["w", "x", "y", "z", "!"], ["wx", "yz!"], ["wxyz!"]])
@pytest.mark.parametrize("reason", [None, FinishReason.LENGTH, FinishReason.STOP])
def test_tokens_that_come_together_are_read_as_those_that_come_alone(steps, reason):
    """The word that is complete first ends the text, also where a longer one began before it."""
    request = Request(0, token_ids((0,)), SamplingParams(max_tokens=8))
    decode = lambda ids: "".join(map(chr, ids))  # noqa: E731
    text = TextRow(Row(request), (ord("!"),), Detokenizer(decode, (0,)), StopWords(["y", "xyz"]))
    for number, step in enumerate(steps, 1):
        ends = reason if number == len(steps) else None
        text.row.update(Output(0, tuple(map(ord, step)), finish_reason=ends), 0.0)
        if text.advance():
            break  # the engine goes on no more
    assert (text.text, text.read, text.row.finish_reason) == ("wx", 3, FinishReason.STOP)
