# SPDX-License-Identifier: BSD-3-Clause
"""Requests that encode."""

from collections.abc import Mapping

import numpy as np

from ..errors import InvalidRequest
from ..messages import EncodeRequest, EncoderInfo, EngineInfo
from .values import check_ia3, check_tokens, first_outside


def check_encode(request: EncodeRequest, info: EngineInfo, names: Mapping[str, str]) -> None:
    if info.encoder is None:
        raise InvalidRequest(
            f"the model is a decoder ({info.model_type}): it generates tokens, and does not encode"
        )
    for output in request.outputs:
        if output not in info.encoder.outputs:
            raise InvalidRequest(
                f"{names.get(output, output)} is wanted; this model gives {', '.join(info.encoder.outputs)}"
            )
    name = names.get("tokens", "tokens")
    if request.hidden_states is not None:
        name = names.get("hidden_states", "hidden_states")
        _check_width(name, request, info.encoder)
    elif not info.encoder.takes_tokens:
        other = names.get("hidden_states", "hidden_states")
        raise InvalidRequest(f"{name} came, but the checkpoint has no embeddings; send {other}")
    check_tokens(name, request.tokens, info.vocab_size)
    if request.token_types:
        _check_types(names.get("token_types", "token_types"), request, info.encoder)
    check_ia3(request, info, names)
    if not 1 <= request.num_tokens <= info.max_model_len:
        raise InvalidRequest(
            f"{name} has {request.num_tokens} tokens; the model takes 1 to {info.max_model_len}"
        )


def _check_width(name: str, request: EncodeRequest, encoder: EncoderInfo) -> None:
    assert request.hidden_states is not None
    shape = request.hidden_states.shape
    if len(shape) != 2 or shape[1] != encoder.hidden_size:
        raise InvalidRequest(f"{name} has shape {list(shape)}; allowed is [tokens, {encoder.hidden_size}]")
    if request.tokens:
        raise InvalidRequest(f"{name} came beside token ids; one of them is allowed")


def _check_types(name: str, request: EncodeRequest, encoder: EncoderInfo) -> None:
    types, count = np.asarray(request.token_types), len(request.tokens)
    if len(types) != count:
        raise InvalidRequest(f"{name} has {len(types)} values for {count} tokens")
    allowed = max(encoder.num_token_types, 1)
    position = first_outside(types, 0, allowed)
    if position is not None:
        raise InvalidRequest(f"{name}: {types[position]} at position {position} is not in [0, {allowed})")
