# SPDX-License-Identifier: BSD-3-Clause
"""Stop words that are longer than everything that comes."""

import time

from fastertransformer.server.stop_words import StopWords


def test_a_stop_word_of_a_megabyte_takes_no_time():
    """Every response of a model instance waits for it."""
    words = StopWords(["word " * 200_000])
    begin = time.perf_counter()
    pieces = [words.push(piece) for piece in ("w", "ord", " ", "wor", "k")]
    assert time.perf_counter() - begin < 1
    assert pieces == ["", "", "", "", "word work"]
    assert not words.found
