# SPDX-License-Identifier: BSD-3-Clause
"""Text to token ids and back, by the checkpoint's own tokenizer.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from ..errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an encoder takes of a text."""

    ids: Sequence[int]
    type_ids: Sequence[int]
    """Segments: 0 and, of a second text, mostly 1."""
    offsets: Sequence[tuple[int, int]]
    """Characters [begin, end) of every token; special ones have none."""


class TextTokenizer:
    """Loaded once per model instance.

    Args:
        path: folder with tokenizer.json, or that file.
        add_special_tokens: whether `encode` adds what the tokenizer puts around a text (such as a BOS).
        skip_special_tokens: whether `decode` leaves special tokens out.

    Raises:
        ModelLoadError: the file is missing or not a tokenizer.
    """

    def __init__(self, path: str, add_special_tokens: bool = True, skip_special_tokens: bool = True) -> None:
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise ModelLoadError(f"parameter tokenizer_dir is {path!r}: there is no file {file}")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:
            raise ModelLoadError(f"{file} is not a tokenizer: {error}") from None
        self._tokenizer.no_truncation()  # what files say about batches of their makers is not for requests
        self._tokenizer.no_padding()
        self._add_special_tokens = add_special_tokens
        self._skip_special_tokens = skip_special_tokens

    def encode(self, text: str) -> tuple[int, ...]:
        return self._ids(text, self._add_special_tokens)

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[Sequence[int]]:
        """On several threads."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in found]

    def encode_pair(self, text: str, pair: str | None, longest: int | None) -> Tokens:
        """Of a text, or of two.

        Args:
            longest: tokens to which the longer text is cut; None does not cut.
        """
        given = text if pair is None else (text, pair)
        # A batch for the reason given in `_ids`. The tokenizer does not cut: it gives what it cuts off, too,
        # of two texts every part of the one with every part of the other.
        (encoding,) = self._tokenizer.encode_batch([given], add_special_tokens=self._add_special_tokens)
        ids, types, offsets = encoding.ids, encoding.type_ids, encoding.offsets
        if longest is None or len(ids) <= longest:
            return Tokens(ids, types, offsets)
        places = _cut(encoding.sequence_ids, longest)
        return Tokens([ids[i] for i in places], [types[i] for i in places], [offsets[i] for i in places])

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=self._skip_special_tokens)
        return text

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """On several threads."""
        texts: list[str] = self._tokenizer.decode_batch(
            list(rows), skip_special_tokens=self._skip_special_tokens
        )
        return texts

    def word(self, word: str) -> tuple[tuple[int, ...], ...]:
        """Token ids of a word at the start of a text and after a blank: most vocabularies tell them apart."""
        return tuple(sorted({self.ids(word), self.ids(" " + word)} - {()}))

    def ids(self, text: str) -> tuple[int, ...]:
        """Of the text alone, with nothing around it."""
        return self._ids(text, False)

    def _ids(self, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        """As a batch: other threads, which answer other requests, go on. A megabyte takes a second."""
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return tuple(encoding.ids)


def _cut(texts: Sequence[int | None], longest: int) -> Sequence[int]:
    """Places of the tokens that stay: special ones, and the beginnings of both texts, of the longer one less.

    Args:
        texts: of which text each token is, 0 or 1; None: special.
    """
    first, second = texts.count(0), texts.count(1)
    room = max(longest - texts.count(None), 0)
    shorter = min(first, second, room // 2)
    left = [room - shorter, shorter] if first > second else [shorter, room - shorter]
    kept = []
    for place, text in enumerate(texts):
        if text is not None:
            left[text] -= 1
        if text is None or left[text] >= 0:
            kept.append(place)
    return kept
