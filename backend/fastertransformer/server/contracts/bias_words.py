# SPDX-License-Identifier: BSD-3-Clause
"""`embedding_bias_words` and `embedding_bias_weights`: biases of the tokens that words consist of."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...errors import InvalidRequest
from ...validation.values import FLOAT32_MAX, MAX_WORDS
from ..protocol import Array

Biases = tuple[tuple[int, float], ...]


def weight_rows(name: str, array: Array, batch: int) -> Sequence[tuple[float, ...]]:
    """[B, n] of finite numbers."""
    if array.ndim != 2 or array.shape[0] not in (1, batch):
        raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is [{batch}, words]")
    strange = array[~np.isfinite(array)]
    if strange.size:
        raise InvalidRequest(f"{name} has the value {strange[0]}; allowed are finite numbers")
    return [tuple(row) for row in np.broadcast_to(array, (batch, array.shape[1])).tolist()]


def pair(words: Sequence[str], weights: Sequence[float]) -> Iterable[tuple[str, float]]:
    """Raises: InvalidRequest: another number of weights than of words, or too many."""
    if len(words) > MAX_WORDS:
        raise InvalidRequest(f"embedding_bias_words has {len(words)} words; allowed are {MAX_WORDS}")
    if len(words) != len(weights):
        raise InvalidRequest(
            f"embedding_bias_weights has {len(weights)} values; allowed are {len(words)}, one for each of"
            " embedding_bias_words"
        )
    return zip(words, weights, strict=True)


def add(biases: Biases, words: Iterable[tuple[Sequence[int], float]]) -> Biases:
    """`biases` of tokens, and the weight of every word on each of its tokens, summed up.

    Raises:
        InvalidRequest: a sum that float32 has not.
    """
    sums: dict[Any, float] = {}
    for ids, weight in words:
        for token in ids:
            sums[token] = sums.get(token, 0.0) + weight
    for token, total in sums.items():
        if not abs(total) <= FLOAT32_MAX:
            raise InvalidRequest(
                f"embedding_bias_weights add up to {total} for token id {token}; allowed is a finite number"
                " in float32"
            )
    return (*((token, bias + sums.pop(token, 0.0)) for token, bias in biases), *sums.items())
