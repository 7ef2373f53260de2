# SPDX-License-Identifier: BSD-3-Clause
"""Readers of tensors of strings."""

from collections.abc import Sequence

from ..errors import InvalidRequest
from ..validation.values import MAX_WORDS
from .protocol import Array, per_row

_EXCERPT = 100


def texts(name: str, array: Array, batch: int) -> Sequence[str]:
    """[B, 1] of UTF-8."""
    return [_utf8(name, value) for value in per_row(name, array, batch)]


def word_rows(name: str, array: Array, batch: int) -> Sequence[tuple[str, ...]]:
    """[B, n] of UTF-8 words."""
    if array.ndim != 2 or array.shape[0] not in (1, batch):
        raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is [{batch}, words]")
    words = [tuple(_utf8(name, word) for word in row) for row in array.tolist()]
    return words if len(words) == batch else words * batch


def word_texts(name: str, array: Array, batch: int) -> Sequence[tuple[str, ...]]:
    """[B, n] of UTF-8 words that texts are compared with; empty ones only fill up."""
    rows = [tuple(filter(None, words)) for words in word_rows(name, array, batch)]
    most = max(map(len, rows), default=0)
    if most > MAX_WORDS:
        raise InvalidRequest(f"{name} has {most} words; allowed are {MAX_WORDS}")
    return rows


def excerpt(value: bytes | str) -> str:
    """What an error says of a text: gRPC drops a message of some kilobytes."""
    return repr(value) if len(value) <= _EXCERPT else f"{value[:_EXCERPT]!r}... of length {len(value)}"


def _utf8(name: str, value: bytes | str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name} is {excerpt(value)}, which is not UTF-8: {error.reason}") from None
