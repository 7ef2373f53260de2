# SPDX-License-Identifier: BSD-3-Clause
"""Single values: numbers in their ranges, token ids in their vocabulary."""

import math
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ..errors import InvalidRequest
from ..messages import AnyRequest, EngineInfo, SamplingParams, TokenIds

MAX_SEED = 2**64 - 1
MAX_BEAM_WIDTH = 64
MAX_WORDS = 8192
"""Of a list: every one of them is looked at for every token, while all other requests wait."""
MAX_BAD_WORD_LEN = 64
"""Tokens: the words of all sequences lie in one array, as wide as the longest of them."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Some contracts let a model declare its floats with 64 bits; what samples has 32."""

_Range = tuple[Callable[[float], bool], str]
_AT_LEAST_ZERO: _Range = (lambda value: value >= 0, "a finite number >= 0")
_PENALTY_LIMIT = 1e20
"""Nobody needs more, and the logits that penalties make of a model's stay numbers."""
_FACTOR: _Range = (
    lambda value: 1 / _PENALTY_LIMIT <= value <= _PENALTY_LIMIT,
    f"a number in [{1 / _PENALTY_LIMIT:g}, {_PENALTY_LIMIT:g}]",
)
_TERM: _Range = (
    lambda value: abs(value) <= _PENALTY_LIMIT,
    f"a number in [{-_PENALTY_LIMIT:g}, {_PENALTY_LIMIT:g}]",
)
_UNIT_INTERVAL: _Range = (lambda value: 0 <= value <= 1, "a number in [0, 1]")
_SHARE: _Range = (lambda value: 0 < value <= 1, "a number in (0, 1]")
_ANY: _Range = (lambda _: True, "a finite number")

_RANGES: dict[str, _Range] = {
    "temperature": _AT_LEAST_ZERO,
    "top_k": _AT_LEAST_ZERO,
    "top_p": _UNIT_INTERVAL,
    "top_p_decay": _SHARE,
    "top_p_min": _SHARE,
    "min_p": _UNIT_INTERVAL,
    "repetition_penalty": _FACTOR,
    "presence_penalty": _TERM,
    "frequency_penalty": _TERM,
    "min_length": _AT_LEAST_ZERO,
    "no_repeat_ngram_size": _AT_LEAST_ZERO,
    "max_tokens": (lambda value: value >= 1, "an integer >= 1"),
    "beam_width": (lambda value: 1 <= value <= MAX_BEAM_WIDTH, f"an integer in [1, {MAX_BEAM_WIDTH}]"),
    "length_penalty": _ANY,
    "diversity_rate": _ANY,
    "seed": (lambda value: 0 <= value <= MAX_SEED, "an integer in [0, 2^64)"),
}


def check_ranges(sampling: SamplingParams, names: Mapping[str, str]) -> None:
    for field, (allowed, text) in _RANGES.items():
        value = getattr(sampling, field)
        is_small = abs(value) <= FLOAT32_MAX  # false for nan, too
        if not (is_small and allowed(value)):
            bound = f" up to {FLOAT32_MAX:.2e}" if math.isfinite(value) and allowed(value) else ""
            raise InvalidRequest(f"{names.get(field, field)} is {value}; allowed is {text}{bound}")


def check_tokens(
    name: str,
    tokens: tuple[int, ...] | TokenIds | npt.NDArray[np.int64],
    vocab_size: int,
    rows: int = 0,
) -> None:
    """Args: rows: ids down to -rows are allowed, too."""
    if len(tokens) == 0:
        return
    if isinstance(tokens, tuple):  # short, and its ids of any size
        outside = (place for place, token in enumerate(tokens) if not -rows <= token < vocab_size)
        position = next(outside, None)
    else:
        position = first_outside(np.asarray(tokens), -rows, vocab_size)
    if position is not None:
        raise InvalidRequest(
            f"{name}: token id {tokens[position]} at position {position} is not in the vocabulary"
            f" [0, {vocab_size})"
        )


def first_outside(values: npt.NDArray[np.int64], low: int, high: int) -> int | None:
    """Where the first of at least one value that is not in [low, high) stands; None: all are."""
    offsets = values - low if low else values
    if int(offsets.view(np.uint64).max()) < high - low:  # unsigned, those below are the largest
        return None
    return int(np.flatnonzero((values < low) | (values >= high))[0])


def check_words(
    name: str, words: tuple[tuple[int, ...], ...], vocab_size: int, longest: float = math.inf
) -> None:
    """Args: longest: tokens that a word may have."""
    if len(words) > MAX_WORDS:
        raise InvalidRequest(f"{name} has {len(words)} words; allowed are {MAX_WORDS}")
    for word in words:
        if not word:
            raise InvalidRequest(f"{name}: a word without tokens; every word needs at least one token id")
        if len(word) > longest:
            raise InvalidRequest(f"{name}: a word has {len(word)} tokens; allowed are {longest}")
        check_tokens(name, word, vocab_size)


def check_reset_id(name: str, sampling: SamplingParams, vocab_size: int) -> None:
    if not -1 <= sampling.top_p_reset_id < vocab_size:
        raise InvalidRequest(
            f"{name} is {sampling.top_p_reset_id}; allowed is a token id in [0, {vocab_size})"
        )


def check_biases(name: str, biases: tuple[tuple[int, float], ...], vocab_size: int) -> None:
    tokens = tuple(token for token, _ in biases)
    check_tokens(name, tokens, vocab_size)
    counts = Counter(tokens)  # of a whole vocabulary, where a bias is dense
    for token, bias in biases:
        if not abs(bias) <= FLOAT32_MAX:
            raise InvalidRequest(
                f"{name}: the bias of token id {token} is {bias}; allowed is a finite number in float32"
            )
        if counts[token] > 1:
            raise InvalidRequest(f"{name}: token id {token} comes {counts[token]} times; allowed is once")


def check_ia3(request: AnyRequest, info: EngineInfo, names: Mapping[str, str]) -> None:
    name, task, count = names.get("ia3_task", "ia3_task"), request.ia3_task, info.num_ia3_tasks
    if task is None:
        return
    if not count:
        raise InvalidRequest(f"{name} is {task}, but the model has no IA3 adapters")
    if not 0 <= task < count:
        raise InvalidRequest(f"{name} is {task}; the model has the IA3 tasks [0, {count})")
