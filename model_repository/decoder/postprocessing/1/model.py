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

    The declared input decides what `sequence_length` counts: with `RESPONSE_INPUT_LENGTHS` (GPT)
    the padded prompt and the new tokens, with `INPUT_SEQUENCE_LENGTHS` (llama) the new tokens.
    """

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        path = Path(config["parameters"]["tokenizer_dir"]["string_value"])
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        self._skip_special_tokens = (
            config["parameters"]["skip_special_tokens"]["string_value"].lower() == "true"
        )
        names = {entry["name"] for entry in config["input"]}
        self._counts_prompt = "RESPONSE_INPUT_LENGTHS" in names
        self._lengths_name = "RESPONSE_INPUT_LENGTHS" if self._counts_prompt else "INPUT_SEQUENCE_LENGTHS"

    def execute(self, requests: list[Any]) -> list[Any]:
        return [pb_utils.InferenceResponse([self._output(request)]) for request in requests]

    def _output(self, request: Any) -> Any:
        tokens, totals, prompt_lens = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy().astype(np.int64)
            for name in ("TOKENS_BATCH", "sequence_length", self._lengths_name)
        )
        # A request is padded to its own longest prompt.
        generated = totals - prompt_lens.max() if self._counts_prompt else totals
        ends = (prompt_lens + generated).reshape(-1)
        rows = tokens.reshape(-1, tokens.shape[-1])
        ids = [row[:end].tolist() for row, end in zip(rows, ends, strict=True)]
        texts = self._tokenizer.decode_batch(ids, skip_special_tokens=self._skip_special_tokens)
        array = np.array([text.encode() for text in texts], dtype=np.object_)
        return pb_utils.Tensor("OUTPUT", array.reshape(tokens.shape[:-1]))
