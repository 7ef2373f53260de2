# SPDX-License-Identifier: BSD-3-Clause
"""Whether a token that was sampled is one that its request bans: then there was no other to take."""

import numpy as np

from .sequence import Sequence

_FIRST = 0
"""What every device takes where all logits are -inf. (ops/sampling.py)"""

REFUSAL = (
    "bad words, no_repeat_ngram_size and min_length leave no token to take after {} new tokens; ban fewer"
)


def is_stuck(sequence: Sequence, token: int) -> bool:
    """Whether `token`, which comes behind the tokens of `sequence`, came although it is banned there."""
    return token == _FIRST and (
        _is_bad_word(sequence, token) or _is_early_end(sequence, token) or _repeats(sequence, token)
    )


def _is_bad_word(sequence: Sequence, token: int) -> bool:
    words = (word for word in sequence.sampling.bad_words if word[-1] == token)
    return any(len(word) == 1 or tuple(sequence.tokens[1 - len(word) :]) == word[:-1] for word in words)


def _is_early_end(sequence: Sequence, token: int) -> bool:
    is_early = len(sequence.tokens) - sequence.prompt_len + 1 < sequence.sampling.min_length
    return is_early and token in sequence.end_ids


def _repeats(sequence: Sequence, token: int) -> bool:
    """Whether it ends an n-gram that is there already."""
    size = sequence.sampling.no_repeat_ngram_size
    if not 0 < size <= len(sequence.tokens):
        return False
    tokens = np.asarray(sequence.tokens)
    head = tokens[len(tokens) + 1 - size :]
    ends = np.flatnonzero(tokens[size - 1 :] == token)
    return bool((head >= 0).all()) and any((tokens[end : end + size - 1] == head).all() for end in ends)
