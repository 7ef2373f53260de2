# SPDX-License-Identifier: BSD-3-Clause
"""Checks of one request against a loaded model, with errors in the names of the client's contract."""

import math
from collections.abc import Callable, Mapping

from .errors import InvalidRequest
from .messages import EngineInfo, Request, SamplingParams

MAX_SEED = 2**64 - 1
MAX_BEAM_WIDTH = 64

_Range = tuple[Callable[[float], bool], str]
_AT_LEAST_ZERO: _Range = (lambda value: value >= 0, "a finite number >= 0")
_ABOVE_ZERO: _Range = (lambda value: value > 0, "a finite number > 0")
_UNIT_INTERVAL: _Range = (lambda value: 0 <= value <= 1, "a number in [0, 1]")
_SHARE: _Range = (lambda value: 0 < value <= 1, "a number in (0, 1]")
_ANY: _Range = (lambda _: True, "a finite number")

_RANGES: dict[str, _Range] = {
    "temperature": _AT_LEAST_ZERO,
    "top_k": _AT_LEAST_ZERO,
    "top_p": _UNIT_INTERVAL,
    "top_p_decay": _SHARE,
    "top_p_min": _SHARE,
    "min_p": _UNIT_INTERVAL,
    "repetition_penalty": _ABOVE_ZERO,
    "presence_penalty": _ANY,
    "frequency_penalty": _ANY,
    "min_length": _AT_LEAST_ZERO,
    "no_repeat_ngram_size": _AT_LEAST_ZERO,
    "max_tokens": (lambda value: value >= 1, "an integer >= 1"),
    "beam_width": (lambda value: 1 <= value <= MAX_BEAM_WIDTH, f"an integer in [1, {MAX_BEAM_WIDTH}]"),
    "length_penalty": _ANY,
    "diversity_rate": _ANY,
    "seed": (lambda value: 0 <= value <= MAX_SEED, "an integer in [0, 2^64)"),
}


def check(request: Request, info: EngineInfo, names: Mapping[str, str] | None = None) -> None:
    """Refuses a request that the model cannot serve.

    Args:
        names: what the client calls a field of `Request` or `SamplingParams`; default the field's own name.

    Raises:
        InvalidRequest: names the field, the value that came and what is allowed.
    """
    names = names or {}
    _check_ranges(request.sampling, names)
    _check_tokens(names.get("prompt", "prompt"), request.prompt, info.vocab_size)
    for field in ("stop_words", "bad_words"):
        for word in getattr(request.sampling, field):
            _check_word(names.get(field, field), word, info.vocab_size)
    _check_tokens(names.get("end_ids", "end_ids"), request.sampling.end_ids or (), info.vocab_size)
    _check_reset_id(names.get("top_p_reset_id", "top_p_reset_id"), request.sampling, info.vocab_size)
    _check_biases(names.get("logit_bias", "logit_bias"), request.sampling.logit_bias, info.vocab_size)
    _check_length(request, info, names)
    if request.sampling.beam_width > 1:
        _check_beams(request, info, names)


def _check_ranges(sampling: SamplingParams, names: Mapping[str, str]) -> None:
    for field, (allowed, text) in _RANGES.items():
        value = getattr(sampling, field)
        if not (math.isfinite(value) and allowed(value)):
            raise InvalidRequest(f"{names.get(field, field)} is {value}; allowed is {text}")


def _check_tokens(name: str, tokens: tuple[int, ...], vocab_size: int) -> None:
    for position, token in enumerate(tokens):
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"{name}: token id {token} at position {position} is not in the vocabulary [0, {vocab_size})"
            )


def _check_word(name: str, word: tuple[int, ...], vocab_size: int) -> None:
    if not word:
        raise InvalidRequest(f"{name}: a word without tokens; every word needs at least one token id")
    _check_tokens(name, word, vocab_size)


def _check_reset_id(name: str, sampling: SamplingParams, vocab_size: int) -> None:
    if not -1 <= sampling.top_p_reset_id < vocab_size:
        raise InvalidRequest(
            f"{name} is {sampling.top_p_reset_id}; allowed is a token id in [0, {vocab_size})"
        )


def _check_biases(name: str, biases: tuple[tuple[int, float], ...], vocab_size: int) -> None:
    tokens = tuple(token for token, _ in biases)
    _check_tokens(name, tokens, vocab_size)
    for token, bias in biases:
        if not math.isfinite(bias):
            raise InvalidRequest(
                f"{name}: the bias of token id {token} is {bias}; allowed is a finite number"
            )
        if tokens.count(token) > 1:
            raise InvalidRequest(
                f"{name}: token id {token} comes {tokens.count(token)} times; allowed is once"
            )


def _check_length(request: Request, info: EngineInfo, names: Mapping[str, str]) -> None:
    name, length_name = names.get("prompt", "prompt"), names.get("max_tokens", "max_tokens")
    prompt, wanted = len(request.prompt), request.sampling.max_tokens
    if prompt == 0:
        raise InvalidRequest(f"{name} is empty; give at least one token id")
    if prompt + wanted > info.max_model_len:
        raise InvalidRequest(
            f"{name} has {prompt} tokens and {length_name} is {wanted}: together {prompt + wanted}, "
            f"but model and cache hold at most {info.max_model_len}"
        )


def _check_beams(request: Request, info: EngineInfo, names: Mapping[str, str]) -> None:
    """At worst, beams share the full blocks of the prompt and nothing else."""
    name, width = names.get("beam_width", "beam_width"), request.sampling.beam_width
    if request.memory_len or request.session is not None:
        raise InvalidRequest(f"{name} is {width}; allowed is 1 in a session and with memory_len")
    if width > info.max_num_seqs:
        raise InvalidRequest(
            f"{name} is {width}, but at most {info.max_num_seqs} sequences run at once (max_num_seqs)"
        )
    shared = len(request.prompt) // info.block_size
    length = len(request.prompt) + request.sampling.max_tokens - 1  # the last token is never computed
    needed = shared + width * (-(-length // info.block_size) - shared)
    if needed > info.num_blocks:
        raise InvalidRequest(
            f"{name} is {width}: {width} beams of {length} tokens need up to {needed} KV cache blocks of "
            f"{info.block_size} tokens, the whole cache has {info.num_blocks}"
        )
