# SPDX-License-Identifier: BSD-3-Clause
"""Ids outside of a vocabulary are found, however far outside, and named; lists have an end."""

import numpy as np
import pytest

from fastertransformer.errors import InvalidRequest
from fastertransformer.messages import SamplingParams, token_ids
from fastertransformer.validation.values import (
    MAX_BAD_WORD_LEN,
    MAX_WORDS,
    check_biases,
    check_ranges,
    check_tokens,
    check_words,
    first_outside,
)

EXTREMES = [0, 1, 6, 7, 8, 2**31, 2**32 + 3, 2**62, 2**63 - 8, 2**63 - 1, -1, -3, -4, -(2**31), -(2**63)]


@pytest.mark.parametrize("low", [0, -1, -3])
def test_the_first_value_outside_is_found(low):
    for value in EXTREMES:
        for other in EXTREMES:
            values = [3, value, 0, other]
            expected = next((place for place, each in enumerate(values) if not low <= each < 7), None)
            assert first_outside(np.array(values, np.int64), low, 7) == expected, values


@pytest.mark.parametrize("pack", [tuple, token_ids])
@pytest.mark.parametrize(("value", "rows"), [(7, 0), (-1, 0), (-3, 2), (2**63 - 1, 2), (-(2**63), 2)])
def test_an_id_outside_is_named(pack, value, rows):
    check_tokens("ids", pack(range(-rows, 7)), 7, rows)
    with pytest.raises(InvalidRequest, match=rf"ids: token id {value} at position 2 is not in .* \[0, 7\)"):
        check_tokens("ids", pack((3, 6, value, value)), 7, rows)


def test_a_word_may_have_ids_of_any_size():
    with pytest.raises(InvalidRequest, match=f"token id {2**64} at position 1"):
        check_tokens("word", (1, 2**64, -1), 7)


def test_a_bias_for_every_token_of_a_large_vocabulary_is_checked():
    """Token by token it would take minutes, in which nobody else is served."""
    biases = tuple((token, 1.0) for token in range(200_000))
    check_biases("bias", biases, 200_000)
    with pytest.raises(InvalidRequest, match="bias: token id 7 comes 2 times; allowed is once"):
        check_biases("bias", (*biases, (7, 2.0)), 200_000)
    with pytest.raises(InvalidRequest, match="bias: the bias of token id 3 is inf"):
        check_biases("bias", ((2, 1.0), (3, float("inf"))), 200_000)


def test_lists_of_words_have_an_end():
    """They take time for every token of everybody, and bad words memory in every slot."""
    check_words("words", ((3,),) * MAX_WORDS, 7)
    check_words("words", ((3,) * 1000,), 7)
    check_words("words", ((3,) * MAX_BAD_WORD_LEN,), 7, MAX_BAD_WORD_LEN)
    with pytest.raises(InvalidRequest, match=f"words has {MAX_WORDS + 1} words; allowed are {MAX_WORDS}"):
        check_words("words", ((3,),) * (MAX_WORDS + 1), 7)
    with pytest.raises(InvalidRequest, match=f"words: a word has 65 tokens; allowed are {MAX_BAD_WORD_LEN}"):
        check_words("words", ((3,), (3,) * 65), 7, MAX_BAD_WORD_LEN)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 3.5e38, r"heat is 3.5e\+38; allowed is a finite number >= 0 up to 3.40e\+38"),
        (
            "presence_penalty",
            -1e300,
            r"presence_penalty is -1e\+300; allowed is a number in \[-1e\+20, 1e\+20\]$",
        ),
        ("frequency_penalty", 2e20, r"is 2e\+20; allowed is a number in \[-1e\+20, 1e\+20\]$"),
        ("repetition_penalty", 1e-38, r"is 1e-38; allowed is a number in \[1e-20, 1e\+20\]$"),
        ("repetition_penalty", 2e20, r"is 2e\+20; allowed is a number in \[1e-20, 1e\+20\]$"),
        ("temperature", float("inf"), "heat is inf; allowed is a finite number >= 0$"),
        ("temperature", float("nan"), "heat is nan; allowed is a finite number >= 0$"),
    ],
)
def test_numbers_are_those_of_float32(field, value, message):
    check_ranges(SamplingParams(max_tokens=1, temperature=3.4e38, seed=2**64 - 1), {})
    check_ranges(SamplingParams(max_tokens=1, repetition_penalty=1e-20, presence_penalty=-1e20), {})
    with pytest.raises(InvalidRequest, match=message):
        check_ranges(SamplingParams(max_tokens=1, **{field: value}), {"temperature": "heat"})
