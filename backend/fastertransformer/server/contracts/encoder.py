# SPDX-License-Identifier: BSD-3-Clause
"""The tensors of FasterTransformer's encoders (bert, deberta, T5-Encoder): token ids, or hidden states, in.

config.pbtxt declares those inputs that its clients send: T5-Encoder called `sequence_length` what the others
call `sequence_lengths`.
"""

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ... import validation
from ...errors import InvalidRequest
from ...messages import EncodeRequest, EngineInfo, TokenIds, token_ids
from ..call import Row
from ..protocol import Array, Input, declared, embeddings, first_row, per_row, read_rows, token_rows
from .encoder_call import ATTENTIONS, MODEL_OUTPUTS, OUTPUTS, EncoderCall
from .prompts import packed_ids


def _hidden_rows(name: str, array: Array, _batch: int) -> Sequence[Any]:
    """[B, S, hidden_size] -> B arrays"""
    if array.ndim != 3:
        raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is [batch, length, hidden_size]")
    return list(array)


INPUTS = (
    Input("input_ids", "TYPE_UINT32", (-1,), token_rows, "tokens"),
    Input("input_hidden_state", "TYPE_FP32", (-1, -1), _hidden_rows, "hidden_states"),
    Input("token_type_ids", "TYPE_INT32", (-1,), token_rows, "token_types"),
    Input("sequence_lengths", "TYPE_INT32", (1,), per_row, "length"),
    Input("sequence_length", "TYPE_UINT32", (1,), per_row, "old_length"),
    Input("is_return_attentions", "TYPE_BOOL", (1,), first_row, "wants_attentions", False),
    Input("ia3_tasks", "TYPE_INT32", (1,), per_row, "ia3_task"),
)
NAMES = {tensor.field: tensor.name for tensor in INPUTS if tensor.field}


class EncoderContract:
    """Reads requests by INPUTS. Raises ModelLoadError when config.pbtxt declares other tensors."""

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        self.input_types = declared(model_config["input"], INPUTS)
        self._output_types = declared(model_config["output"], OUTPUTS)
        self._ids: Iterator[int] = itertools.count()

    def open(self, tensors: Mapping[str, Array], info: EngineInfo) -> EncoderCall:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        main = _main_input(tensors)
        batch, width = main.shape[0], main.shape[1] if main.ndim > 1 else 0
        values = read_rows(INPUTS, tensors, batch)
        wants_attentions = values[0]["wants_attentions"]
        rows = [Row(_request(next(self._ids), row, info.vocab_size)) for row in values]
        for row in rows:
            validation.check(row.request, info, NAMES)
        assert info.encoder is not None
        if wants_attentions and MODEL_OUTPUTS[ATTENTIONS] not in info.encoder.outputs:
            raise InvalidRequest(
                "is_return_attentions is True; the model has none to return: allowed is False"
            )
        return EncoderCall(rows, width, self._output_types, info, wants_attentions)


def _main_input(tensors: Mapping[str, Array]) -> Array:
    """Raises: InvalidRequest: not exactly one of the two came."""
    found = [name for name in ("input_ids", "input_hidden_state") if name in tensors]
    if len(found) != 1:
        came = " and ".join(found) if found else "none"
        raise InvalidRequest(f"one of input_ids and input_hidden_state is needed; {came} came")
    return tensors[found[0]]


def _request(number: int, values: Mapping[str, Any], vocab_size: int) -> EncodeRequest:
    tokens, hidden, types = values["tokens"], values["hidden_states"], values["token_types"]
    length = _length(values, len(tokens if hidden is None else hidden))
    return EncodeRequest(
        id=number,
        tokens=packed_ids("input_ids", () if tokens is None else tokens[:length].tolist(), vocab_size),
        token_types=_packed_types(() if types is None else types[:length].tolist()),
        # What lies behind a row's length may be anything.
        hidden_states=None if hidden is None else embeddings("input_hidden_state", hidden[:length]),
        outputs=(),
        ia3_task=values["ia3_task"],
    )


def _packed_types(types: Sequence[int]) -> TokenIds:
    """Whether those that can travel are token types is checked later."""
    try:
        return token_ids(types)
    except struct.error:
        raise InvalidRequest(f"token_type_ids: {max(types)} is not in [0, 2^63)") from None


def _length(values: Mapping[str, Any], width: int) -> int:
    name = "sequence_lengths" if values["length"] is not None else "sequence_length"
    length = values["length"] if values["length"] is not None else values["old_length"]
    if length is None:
        return width
    if not 1 <= length <= width:
        raise InvalidRequest(f"{name} is {length}; allowed is [1, {width}], the width of the input")
    return int(length)
