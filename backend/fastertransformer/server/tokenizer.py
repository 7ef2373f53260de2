# SPDX-License-Identifier: BSD-3-Clause
"""Text to token ids and back, by the checkpoint's own tokenizer.json."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from ..errors import ModelLoadError


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
        return tuple(self._tokenizer.encode(text, add_special_tokens=self._add_special_tokens).ids)

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[Sequence[int]]:
        """On several threads."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in found]

    def encode_pair(self, text: str, pair: str | None, longest: int | None) -> Encoding:
        """Ids, segment ids and offsets of a text, or of two.

        Args:
            longest: tokens to which the longer text is cut; None does not cut.
        """
        if longest is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(longest)
        return self._tokenizer.encode(text, pair, add_special_tokens=self._add_special_tokens)

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
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
