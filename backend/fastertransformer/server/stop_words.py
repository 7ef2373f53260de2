# SPDX-License-Identifier: BSD-3-Clause
"""Ends a text at the first of some words, however the words fall into tokens and pieces."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from .protocol import Array
from .texts import word_texts


def stop_word_rows(name: str, array: Array, batch: int) -> Sequence[tuple[str, ...]]:
    """[B, n] of UTF-8 words -> for every row what `StopWords` takes."""
    return [shortest(words) for words in word_texts(name, array, batch)]


def shortest(words: Iterable[str]) -> tuple[str, ...]:
    """Sorted, without those that begin with another one: they end no text that the other does not end."""
    kept: list[str] = []
    for word in sorted(words):
        if not kept or not word.startswith(kept[-1]):
            kept.append(word)
    return tuple(kept)


class StopWords:
    """Passes text through up to the first stop word, which is left out.

    Between a word and a text that begins with it, sorted, lie only texts that begin with it, too. So one
    search tells which word may begin at a place, however many there are.

    Args:
        words: as `shortest` gives them.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self._longest = max(map(len, words), default=0)
        self._held = ""
        """End of the text that may be the beginning of a stop word."""
        self._begun: list[int] = []
        """Places in it at which one may have begun."""
        self.found = False

    def push(self, text: str, last: bool = False) -> str:
        """The part of the text so far that is certain to stay, without what was returned before."""
        if self.found or not self.words:
            return "" if self.found else text
        places = [*self._begun, *range(len(self._held), len(self._held) + len(text))]
        text = self._held + text
        keep = self._search(text, places)
        if not self.found:
            keep = len(text) if last or not self._begun else self._begun[0]
        self._held, self._begun = text[keep:], [place - keep for place in self._begun]
        return text[:keep]

    def _search(self, text: str, places: Sequence[int]) -> int:
        """The first of `places` at which there is a word; else 0, and those at which one may have begun."""
        self._begun = []
        for place in places:
            rest = text[place : place + self._longest]
            index = bisect_right(self.words, rest)
            self.found = index > 0 and rest.startswith(self.words[index - 1])
            if self.found:
                return place
            if index < len(self.words) and self.words[index].startswith(rest):
                self._begun.append(place)
        return 0
