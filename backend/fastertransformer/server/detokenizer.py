# SPDX-License-Identifier: BSD-3-Clause
"""Text of a growing row of tokens, piece by piece: no character is split, no blank is dropped."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_CONTEXT_TOKENS = 5
_CHARACTER_TOKENS = 4
"""Of the longest character, where every byte of it is one."""


class Detokenizer:
    """The pieces joined are decode(prompt + generated) without decode(prompt).

    A token's text depends on its neighbours: a character may take several tokens, and some
    vocabularies drop the blank before the first token they decode. So a piece is the difference
    of two decodings that start at the same earlier token, and it is held back while it ends
    within a character. (The same idea as in Hugging Face's text-generation-inference.)
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._ids = _end_of(prompt, decode)
        self._begin = 0
        """First token of the decodings that are compared."""
        self._given = len(self._ids)
        """Tokens whose text was given out."""

    def push(self, tokens: Sequence[int], last: bool = False) -> str:
        """The text that `tokens` complete; with `last` also what stays incomplete."""
        self._ids += tokens
        before = self._decode(self._ids[self._begin : self._given])
        text = self._decode(self._ids[self._begin :])
        if len(text) <= len(before) or (text.endswith(_INCOMPLETE) and not last):
            return ""
        self._begin, self._given = self._given, len(self._ids)
        return text[len(before) :]


def _end_of(prompt: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[int]:
    """Some tokens, the first of which begins a character: else no run of bytes from there on is text."""
    ends = [list(prompt[-_CONTEXT_TOKENS - more :]) for more in range(_CHARACTER_TOKENS)]
    return next((end for end in ends if not decode(end).startswith(_INCOMPLETE)), ends[0])
