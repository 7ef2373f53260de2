# SPDX-License-Identifier: BSD-3-Clause
"""`preprocessing`: text to the token ids that the model `fastertransformer` takes."""

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InvalidRequest
from ..parameters import flag
from ..protocol import MAX_UINT32, Array, Input, declared, needed, per_row, read_rows, require
from ..texts import excerpt, texts
from ..tokenizer import TextTokenizer
from . import turns

INPUTS = (
    Input("QUERY", "TYPE_STRING", (-1,), texts, "text", optional=False),
    Input("REQUEST_OUTPUT_LEN", "TYPE_UINT32", (-1,), per_row, "output_len", optional=False),
    Input("BAD_WORDS_DICT", "TYPE_STRING", (-1,), texts, "bad_words", ""),
    Input("STOP_WORDS_DICT", "TYPE_STRING", (-1,), texts, "stop_words", ""),
)
NO_WORDS = ([0], [-1])
"""Word list without a word."""


class Preprocessing:
    """Parameters: `tokenizer_dir`, `add_special_tokens`. Raises ModelLoadError.

    Tensors are [B, ...], in conversations [1, B, ...]. A turn that goes on gets no special tokens: they stand
    in front of the first one.
    """

    def __init__(self, model_config: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        self.input_types = declared(model_config["input"], INPUTS)
        require(model_config["input"], INPUTS)
        self._has_turns = turns.has_turns(model_config, "QUERY", 1)
        self._add_special_tokens = flag(parameters, "add_special_tokens", True)
        self._tokenizer = TextTokenizer(parameters.get("tokenizer_dir", ""))

    def compute(self, tensors: Mapping[str, Array], is_first: bool) -> Mapping[str, Array]:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        if not self._has_turns:
            return self._rows(tensors, self._add_special_tokens)
        return turns.wrap(self._rows(turns.strip(tensors), self._add_special_tokens and is_first))

    def _rows(self, tensors: Mapping[str, Array], add_special_tokens: bool) -> dict[str, Array]:
        rows = read_rows(INPUTS, tensors, len(needed(tensors, "QUERY")))
        ids = self._tokenizer.encode_batch([row["text"] for row in rows], add_special_tokens)
        lengths = [len(line) for line in ids]
        output_lens = [[row["output_len"]] for row in rows]
        _check_output_lens(output_lens)
        input_ids = np.zeros((len(ids), max(lengths)), np.uint32)  # what lies behind a length is not read
        for line, row in zip(input_ids, ids, strict=True):
            line[: len(row)] = row
        return {
            "INPUT_ID": input_ids,
            "REQUEST_INPUT_LEN": np.array(lengths, np.uint32)[:, None],
            "REQUEST_OUTPUT_LEN": np.array(output_lens, np.uint32),
            "BAD_WORDS_IDS": self._word_ids("BAD_WORDS_DICT", [row["bad_words"] for row in rows]),
            "STOP_WORDS_IDS": self._word_ids("STOP_WORDS_DICT", [row["stop_words"] for row in rows]),
        }

    def _word_ids(self, name: str, lines: Sequence[str]) -> Array:
        """[B, 2, L]: one line of comma-separated words per row; "word" and " word" are different tokens."""
        rows = [self._word_list(_words(name, line)) for line in lines]
        array = np.zeros((len(rows), 2, max(len(ids) for ids, _ in rows)), np.int32)
        array[:, 1] = -1
        for line, (ids, ends) in zip(array, rows, strict=True):
            line[0, : len(ids)], line[1, : len(ends)] = ids, ends
        return array

    def _word_list(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of all words behind each other, and where each word ends."""
        encoded = [self._tokenizer.ids(word) for word in words if word]
        ids = [token for word in encoded for token in word]
        return (ids, np.cumsum([len(word) for word in encoded]).tolist()) if ids else NO_WORDS


def _check_output_lens(rows: Sequence[Sequence[int]]) -> None:
    """What is passed on has fewer bits than config.pbtxt may declare here."""
    for (length,) in rows:
        if not 0 <= length <= MAX_UINT32:
            raise InvalidRequest(f"REQUEST_OUTPUT_LEN is {length}; allowed is [1, {MAX_UINT32}]")


def _words(name: str, line: str) -> Sequence[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error as error:
        raise InvalidRequest(
            f"{name} is {excerpt(line)}; allowed are comma-separated values: {error}"
        ) from None
