# SPDX-License-Identifier: BSD-3-Clause
"""Ends a text at the first of some words, however the words fall into tokens and pieces."""

from collections.abc import Sequence


class StopWords:
    """Passes text through up to the first stop word, which is left out."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self._held = ""
        """End of the text that may be the beginning of a stop word."""
        self.found = False

    def push(self, text: str, last: bool = False) -> str:
        """The part of the text so far that is certain to stay, without what was returned before."""
        if self.found:
            return ""
        text = self._held + text
        places = [place for word in self.words if (place := text.find(word)) >= 0]
        self.found = bool(places)
        keep = min(places) if places else len(text) - (0 if last else self._possible(text))
        self._held = text[keep:]
        return text[:keep]

    def _possible(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop word."""
        longest = len(text)
        lengths = (
            n for word in self.words for n in range(1, min(len(word), longest + 1)) if text.endswith(word[:n])
        )
        return max(lengths, default=0)
