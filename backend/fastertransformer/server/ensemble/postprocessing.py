# SPDX-License-Identifier: BSD-3-Clause
"""`postprocessing`: token ids of `fastertransformer` to text, the prompt and what was generated."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InvalidRequest
from ..parameters import flag
from ..protocol import MAX_UINT32, Array, Input, declared, needed, require
from ..tokenizer import TextTokenizer


def _whole(_name: str, array: Array, _batch: int) -> Sequence[Any]:
    return list(array)


INPUTS = (
    Input("TOKENS_BATCH", "TYPE_UINT32", (-1, -1), _whole, optional=False),
    Input("OUTPUT_LENGTHS", "TYPE_UINT32", (-1,), _whole),
    Input("sequence_length", "TYPE_UINT32", (-1,), _whole),
    Input("RESPONSE_INPUT_LENGTHS", "TYPE_INT32", (-1,), _whole),
)


class Postprocessing:
    """Parameters: `tokenizer_dir`, `skip_special_tokens`. Raises ModelLoadError.

    `TOKENS_BATCH` is [B, W, L], in conversations [1, B, W, L]. Where a row ends is told by `OUTPUT_LENGTHS`;
    else by `sequence_length`, which counts a padded prompt, together with `RESPONSE_INPUT_LENGTHS`; else by
    `sequence_length` alone. Where nothing is told, what fills a row up is left out as special tokens.
    """

    def __init__(self, model_config: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        self.input_types = declared(model_config["input"], INPUTS)
        require(model_config["input"], INPUTS)
        skips = flag(parameters, "skip_special_tokens", True)
        self._tokenizer = TextTokenizer(parameters.get("tokenizer_dir", ""), skip_special_tokens=skips)

    def compute(self, tensors: Mapping[str, Array], is_first: bool) -> Mapping[str, Array]:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        tokens = needed(tensors, "TOKENS_BATCH")
        _check_ids(tokens)
        rows = tokens.reshape(math.prod(tokens.shape[:-1]), tokens.shape[-1])
        ids = [row[:end].tolist() for row, end in zip(rows, _ends(tensors, rows), strict=True)]
        texts = [text.encode() for text in self._tokenizer.decode_batch(ids)]
        return {"OUTPUT": np.array(texts, np.object_).reshape(tokens.shape[:-1])}


def _check_ids(tokens: Array) -> None:
    """What the tokenizer takes for an id; those that it does not know have no text."""
    outside = tokens[(tokens < 0) | (tokens > MAX_UINT32)]
    if outside.size:
        raise InvalidRequest(f"TOKENS_BATCH: token id {outside[0]} is not in [0, {MAX_UINT32}]")


def _ends(tensors: Mapping[str, Array], rows: Array) -> Sequence[int]:
    """[rows] number of tokens that are prompt or output."""
    lengths = {name: array.astype(np.int64).reshape(-1) for name, array in tensors.items()}
    for name in lengths.keys() - {"TOKENS_BATCH"}:
        if len(lengths[name]) != len(rows):
            raise InvalidRequest(
                f"{name} has {len(lengths[name])} values; allowed are {len(rows)}, the rows of TOKENS_BATCH"
            )
    name, ends, prompt_lens = "OUTPUT_LENGTHS", lengths.get("OUTPUT_LENGTHS"), None
    if ends is None and "sequence_length" in lengths:
        name, ends = "sequence_length", lengths["sequence_length"]
        prompt_lens = lengths.get("RESPONSE_INPUT_LENGTHS")
    if ends is not None and prompt_lens is not None:
        # A request is padded to its own longest prompt, and the padding was taken out of the rows.
        name, ends = f"{name} by RESPONSE_INPUT_LENGTHS", ends - prompt_lens.max(initial=0) + prompt_lens
    found: list[int] = [rows.shape[-1]] * len(rows) if ends is None else ends.tolist()
    if min(found, default=0) < 0:
        raise InvalidRequest(f"{name} ends a row of TOKENS_BATCH at {min(found)}; allowed is an integer >= 0")
    return found
