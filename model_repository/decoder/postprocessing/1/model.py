# SPDX-License-Identifier: BSD-3-Clause
"""Token ids of the fastertransformer model to text: the prompt and what was generated, without padding."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    """Parameters: `tokenizer_dir`, `skip_special_tokens`.

    Where a row ends is told by `OUTPUT_LENGTHS`; else by `sequence_length`, which counts a padded prompt,
    together with `RESPONSE_INPUT_LENGTHS`; else by `sequence_length` alone. Where nothing is told, the
    end tokens that fill a row are left out as special tokens.
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        path = Path(parameters["tokenizer_dir"]["string_value"])
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        self._skip_special_tokens = parameters["skip_special_tokens"]["string_value"].lower() == "true"

    def execute(self, requests: list[Any]) -> list[Any]:
        return [pb_utils.InferenceResponse([self._output(request)]) for request in requests]

    def _output(self, request: Any) -> Any:
        tokens = _read(request, "TOKENS_BATCH")
        rows = tokens.reshape(-1, tokens.shape[-1])
        ids = [row[:end].tolist() for row, end in zip(rows, _ends(request, rows), strict=True)]
        texts = self._tokenizer.decode_batch(ids, skip_special_tokens=self._skip_special_tokens)
        array = np.array([text.encode() for text in texts], dtype=np.object_)
        return pb_utils.Tensor("OUTPUT", array.reshape(tokens.shape[:-1]))


def _ends(request: Any, rows: Any) -> list[int]:
    """[rows] number of tokens that are prompt or output."""
    ends, totals = _read(request, "OUTPUT_LENGTHS"), _read(request, "sequence_length")
    prompt_lens = _read(request, "RESPONSE_INPUT_LENGTHS")
    if ends is None and totals is not None:
        # A request is padded to its own longest prompt, and the padding was taken out of the rows.
        ends = totals if prompt_lens is None else totals - prompt_lens.max() + prompt_lens
    return [rows.shape[-1]] * len(rows) if ends is None else [int(end) for end in ends.reshape(-1)]


def _read(request: Any, name: str) -> Any:
    """int64 values of an input; None when it was not sent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().astype(np.int64)
