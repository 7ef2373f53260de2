# SPDX-License-Identifier: BSD-3-Clause
"""Text to an embedding, or to classes: what sentence-transformers and text-classification pipelines do."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from ... import validation
from ...errors import InvalidRequest
from ...messages import EncodeRequest, EngineInfo, token_ids
from ..call import Row
from ..parameters import flag
from ..protocol import Array, Input, declared, needed, per_row, read_rows, require
from ..texts import texts
from ..tokenizer import TextTokenizer
from .encoder_text_call import OUTPUTS, EncoderTextCall, TextRow

INPUTS = (
    Input("text_input", "TYPE_STRING", (1,), texts, "text", optional=False),
    Input("text_pair", "TYPE_STRING", (1,), texts, "pair"),
    Input("truncate", "TYPE_BOOL", (1,), per_row, "truncate", False),
)
NAMES = {"tokens": "text_input"}
NAMES_OF_PAIRS = {"tokens": "text_input with text_pair"}


class EncoderTextContract:
    """Reads requests by INPUTS. Raises ModelLoadError when config.pbtxt declares other tensors."""

    def __init__(self, model_config: Mapping[str, Any], tokenizer: TextTokenizer) -> None:
        self.input_types = declared(model_config["input"], INPUTS)
        require(model_config["input"], INPUTS)
        self._output_types = declared(model_config["output"], OUTPUTS)
        self._tokenizer = tokenizer
        self._ids: Iterator[int] = itertools.count()

    @classmethod
    def from_parameters(
        cls, model_config: Mapping[str, Any], parameters: Mapping[str, str]
    ) -> "EncoderTextContract":
        """Reads tokenizer_dir and add_special_tokens."""
        add = flag(parameters, "add_special_tokens", True)
        return cls(model_config, TextTokenizer(parameters.get("tokenizer_dir", ""), add))

    def open(self, tensors: Mapping[str, Array], info: EngineInfo) -> EncoderTextCall:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        if info.encoder is None:
            raise InvalidRequest(f"the model is a decoder ({info.model_type}): it does not encode text")
        values = read_rows(INPUTS, tensors, len(needed(tensors, "text_input")))
        rows = [self._row(row, info) for row in values]
        return EncoderTextCall(rows, self._output_types, info)

    def _row(self, values: Mapping[str, Any], info: EngineInfo) -> TextRow:
        assert info.encoder is not None
        longest = info.max_model_len if values["truncate"] else None
        found = self._tokenizer.encode_pair(values["text"], values["pair"], longest)
        has_types = info.encoder.num_token_types > 1 and any(found.type_ids)
        request = EncodeRequest(
            id=next(self._ids),
            tokens=token_ids(found.ids),
            token_types=token_ids(found.type_ids if has_types else ()),
            outputs=(),
        )
        validation.check(request, info, NAMES if values["pair"] is None else NAMES_OF_PAIRS)
        return TextRow(Row(request), found.offsets)
