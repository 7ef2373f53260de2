# SPDX-License-Identifier: BSD-3-Clause
"""Text to the token ids that the fastertransformer model takes."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

NO_WORDS = ([0], [-1])
"""Word list without a word."""


class TritonPythonModel:
    """Parameters: `tokenizer_dir`, `add_special_tokens`."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        path = Path(parameters["tokenizer_dir"]["string_value"])
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        self._add_special_tokens = parameters["add_special_tokens"]["string_value"].lower() == "true"

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            return pb_utils.InferenceResponse(self._outputs(request))
        except UnicodeDecodeError as error:
            text, code = f"an input is not UTF-8 text: {error}", pb_utils.TritonError.INVALID_ARG
            return pb_utils.InferenceResponse([], error=pb_utils.TritonError(text, code))

    def _outputs(self, request: Any) -> list[Any]:
        texts = [text.decode() for text in _rows(request, "QUERY")]
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=self._add_special_tokens)
        rows = [encoding.ids for encoding in encodings]
        lengths = np.array([[len(ids)] for ids in rows], np.uint32)
        input_ids = np.zeros((len(rows), lengths.max()), np.uint32)  # what lies behind a length is not read
        for line, ids in zip(input_ids, rows, strict=True):
            line[: len(ids)] = ids
        output_len = pb_utils.get_input_tensor_by_name(request, "REQUEST_OUTPUT_LEN").as_numpy()
        return [
            pb_utils.Tensor("INPUT_ID", input_ids),
            pb_utils.Tensor("REQUEST_INPUT_LEN", lengths),
            pb_utils.Tensor("REQUEST_OUTPUT_LEN", output_len.astype(np.uint32)),
            pb_utils.Tensor("BAD_WORDS_IDS", self._word_ids(request, "BAD_WORDS_DICT", len(rows))),
            pb_utils.Tensor("STOP_WORDS_IDS", self._word_ids(request, "STOP_WORDS_DICT", len(rows))),
        ]

    def _word_ids(self, request: Any, name: str, batch: int) -> Any:
        """[B, 2, L]: one line of comma-separated words per row; "word" and " word" are different tokens."""
        lines = [line.decode() for line in _rows(request, name)] or [""] * batch
        rows = [self._word_list(next(csv.reader([line]), [])) for line in lines]
        array = np.zeros((len(rows), 2, max(len(ids) for ids, _ in rows)), np.int32)
        array[:, 1] = -1
        for line, (ids, ends) in zip(array, rows, strict=True):
            line[0, : len(ids)], line[1, : len(ends)] = ids, ends
        return array

    def _word_list(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of all words behind each other, and where each word ends."""
        encoded = [self._tokenizer.encode(word, add_special_tokens=False).ids for word in words if word]
        ids = [token for word in encoded for token in word]
        return (ids, np.cumsum([len(word) for word in encoded]).tolist()) if ids else NO_WORDS


def _rows(request: Any, name: str) -> list[bytes]:
    """The first string of every row; none when the tensor was not sent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else [row.reshape(-1)[0] for row in tensor.as_numpy()]
