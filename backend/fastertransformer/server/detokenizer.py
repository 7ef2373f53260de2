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

    Bytes that are no character are not joined to anything: some decoders take a whole run of bytes for
    none then, with characters in it that were given out. The text is that of tokens that come one by one,
    however many come at once.
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
        text = ""
        for token in tokens:
            self._ids.append(token)
            text += self._take()
        return text + self._take(last) if last else text

    def _take(self, last: bool = False) -> str:
        before, text = self._decoded(self._given), self._decoded(len(self._ids))
        if len(text) > len(before) and (last or not text.endswith(_INCOMPLETE)):
            return self._give(len(self._ids), before, text)
        is_no_character = len(self._ids) > self._given + _CHARACTER_TOKENS
        return self._give_first(before) if is_no_character else ""

    def _give_first(self, before: str) -> str:
        """The first token that is held back, where too many are: all are decoded again for every new one."""
        text = self._decoded(self._given + 1)
        if len(text) > len(before):
            return self._give(self._given + 1, before, text)
        del self._ids[self._given]  # it has no text, and is no neighbour that would tell where a word begins
        return ""

    def _give(self, end: int, before: str, text: str) -> str:
        self._begin, self._given = self._given, end
        return text[len(before) :]

    def _decoded(self, end: int) -> str:
        return self._decode(self._ids[self._begin : end])


def _end_of(prompt: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[int]:
    """Some tokens, the first of which begins a character: else no run of bytes from there on is text."""
    ends = [list(prompt[-_CONTEXT_TOKENS - more :]) for more in range(_CHARACTER_TOKENS)]
    return next((end for end in ends if not decode(end).startswith(_INCOMPLETE)), ends[0])
