# SPDX-License-Identifier: BSD-3-Clause
"""Checks of one request against a loaded model, with errors in the names of the client's contract."""

import math
from collections.abc import Callable, Mapping, Sequence

from .errors import InvalidRequest
from .messages import (
    AnyRequest,
    EncodeRequest,
    EncoderInfo,
    EngineInfo,
    PromptKind,
    Request,
    SamplingParams,
)

_FLOAT_BYTES = 4

MAX_SEED = 2**64 - 1
MAX_BEAM_WIDTH = 64
MAX_LOGITS_BYTES = 256 << 20
"""Of one tensor of logits in one answer."""

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


_LOGITS: dict[str, Callable[[Request], int]] = {
    "wants_context_logits": lambda request: len(request.prompt),
    "wants_logits": lambda request: request.sampling.max_tokens,
}
"""Wishes, and how many rows of logits they bring."""


def check(request: AnyRequest, info: EngineInfo, names: Mapping[str, str] | None = None) -> None:
    """Refuses a request that the model cannot serve.

    Args:
        names: what the client calls a field of a request or its sampling; default the field's own name.

    Raises:
        InvalidRequest: names the field, the value that came and what is allowed.
    """
    if isinstance(request, EncodeRequest):
        _check_encode(request, info, names or {})
    else:
        _check_generate(request, info, names or {})


def _check_generate(request: Request, info: EngineInfo, names: Mapping[str, str]) -> None:
    if info.encoder is not None:
        raise InvalidRequest(
            f"the model is an encoder ({info.model_type}): it encodes, and generates no tokens"
        )
    _check_ranges(request.sampling, names)
    _check_embeddings(request, info, names)
    rows = 0 if info.max_encoder_len else num_prompt_rows(request, info)
    _check_tokens(names.get("prompt", "prompt"), request.prompt, info.vocab_size, rows)
    for field in ("stop_words", "bad_words"):
        for word in getattr(request.sampling, field):
            _check_word(names.get(field, field), word, info.vocab_size)
    _check_tokens(names.get("end_ids", "end_ids"), request.sampling.end_ids or (), info.vocab_size)
    _check_encoder(request, info, names)
    _check_forced(request, info, names)
    _check_ia3(request, info, names)
    _check_reset_id(names.get("top_p_reset_id", "top_p_reset_id"), request.sampling, info.vocab_size)
    _check_biases(names.get("logit_bias", "logit_bias"), request.sampling.logit_bias, info.vocab_size)
    _check_length(request, info, names)
    check_logits([request], info, names)
    if request.sampling.beam_width > 1:
        _check_beams(request, info, names)


def _check_ranges(sampling: SamplingParams, names: Mapping[str, str]) -> None:
    for field, (allowed, text) in _RANGES.items():
        value = getattr(sampling, field)
        if not (math.isfinite(value) and allowed(value)):
            raise InvalidRequest(f"{names.get(field, field)} is {value}; allowed is {text}")


def num_prompt_rows(request: Request, info: EngineInfo) -> int:
    """How many rows the prompt's negative ids may name."""
    learning = info.prompt_learning
    if request.prompt_task >= 0 and learning is not None:
        return learning.lengths[request.prompt_task]
    return len(request.embeddings) // (_FLOAT_BYTES * info.embedding_size) if info.embedding_size else 0


def num_prefix_tokens(request: Request, info: EngineInfo) -> int:
    """The prompt's first tokens whose keys and values a table has."""
    learning = info.prompt_learning
    if request.prompt_task < 0 or learning is None or learning.kind is not PromptKind.PREFIX:
        return 0
    return learning.lengths[request.prompt_task]


def _check_embeddings(request: Request, info: EngineInfo, names: Mapping[str, str]) -> None:
    num_tasks = 0 if info.prompt_learning is None else len(info.prompt_learning.task_names)
    if not -1 <= request.prompt_task < num_tasks:
        raise InvalidRequest(
            f"{names.get('prompt_task', 'prompt_task')} is {request.prompt_task}; the checkpoint has"
            f" {num_tasks} tasks"
        )
    row_bytes = _FLOAT_BYTES * info.embedding_size
    if request.embeddings and (row_bytes == 0 or len(request.embeddings) % row_bytes):
        raise InvalidRequest(
            f"{names.get('embeddings', 'embeddings')} has {len(request.embeddings)} bytes; "
            f"rows have {info.embedding_size} values of {_FLOAT_BYTES} bytes"
        )
    length = num_prefix_tokens(request, info)
    if request.prompt[:length] != tuple(range(-1, -1 - length, -1)):
        raise InvalidRequest(f"prompt does not begin with the {length} tokens of task {request.prompt_task}")


def _check_tokens(name: str, tokens: tuple[int, ...], vocab_size: int, rows: int = 0) -> None:
    """Args: rows: ids down to -rows are allowed, too."""
    for position, token in enumerate(tokens):
        if not -rows <= token < vocab_size:
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


def check_logits(requests: Sequence[Request], info: EngineInfo, names: Mapping[str, str]) -> None:
    """Raises InvalidRequest where requests answered together want too many logits, padding and all."""
    for field, num_rows in _LOGITS.items():
        counts = [num_rows(request) for request in requests if getattr(request, field)]
        size = len(counts) * max(counts, default=0) * info.vocab_size * _FLOAT_BYTES
        if size > MAX_LOGITS_BYTES:
            raise InvalidRequest(
                f"{names.get(field, field)} asks for {len(counts)} x {max(counts)} x {info.vocab_size}"
                f" logits, {size} bytes; allowed are {MAX_LOGITS_BYTES} bytes"
            )


def _check_forced(request: Request, info: EngineInfo, names: Mapping[str, str]) -> None:
    name, count = names.get("forced_tokens", "forced_tokens"), len(request.forced_tokens)
    _check_tokens(name, request.forced_tokens, info.vocab_size)
    if count > request.sampling.max_tokens:
        length_name = names.get("max_tokens", "max_tokens")
        raise InvalidRequest(
            f"{name} has {count} tokens; allowed are {length_name}, which is {request.sampling.max_tokens}"
        )


def _check_ia3(request: AnyRequest, info: EngineInfo, names: Mapping[str, str]) -> None:
    name, task, count = names.get("ia3_task", "ia3_task"), request.ia3_task, info.num_ia3_tasks
    if task is None:
        return
    if not count:
        raise InvalidRequest(f"{name} is {task}, but the model has no IA3 adapters")
    if not 0 <= task < count:
        raise InvalidRequest(f"{name} is {task}; the model has the IA3 tasks [0, {count})")


def _check_encoder(request: Request, info: EngineInfo, names: Mapping[str, str]) -> None:
    name, length = names.get("encoder_tokens", "encoder_tokens"), len(request.encoder_tokens)
    if not info.max_encoder_len:
        if length:
            raise InvalidRequest(f"{name} has {length} tokens, but the model has no encoder")
        return
    if not length:
        raise InvalidRequest(f"{name} is empty; an encoder-decoder needs at least one token id")
    if length > info.max_encoder_len:
        raise InvalidRequest(
            f"{name} has {length} tokens; the encoder's positions and the cache take at most "
            f"{info.max_encoder_len}"
        )
    _check_tokens(name, request.encoder_tokens, info.encoder_vocab_size, num_prompt_rows(request, info))
    longest = len(request.prompt) + request.sampling.max_tokens
    needed = -(-length // info.block_size) - (-longest // info.block_size)
    if needed > info.num_blocks:
        raise InvalidRequest(
            f"{name} has {length} tokens and {names.get('max_tokens', 'max_tokens')} is "
            f"{request.sampling.max_tokens}: they need {needed} KV cache blocks, the whole cache has "
            f"{info.num_blocks}"
        )


def _check_beams(request: Request, info: EngineInfo, names: Mapping[str, str]) -> None:
    """At worst, beams share the full blocks of the prompt and nothing else."""
    name, width = names.get("beam_width", "beam_width"), request.sampling.beam_width
    if request.memory_len or request.session is not None:
        raise InvalidRequest(f"{name} is {width}; allowed is 1 in a session and with memory_len")
    for field in _LOGITS:
        if getattr(request, field):
            raise InvalidRequest(f"{name} is {width}; allowed is 1 with {names.get(field, field)}")
    if width > info.max_num_seqs:
        raise InvalidRequest(
            f"{name} is {width}, but at most {info.max_num_seqs} sequences run at once (max_num_seqs)"
        )
    cross = -(-len(request.encoder_tokens) // info.block_size)
    shared = len(request.prompt) // info.block_size
    length = len(request.prompt) + request.sampling.max_tokens - 1  # the last token is never computed
    needed = cross + shared + width * (-(-length // info.block_size) - shared)
    if needed > info.num_blocks:
        raise InvalidRequest(
            f"{name} is {width}: {width} beams of {length} tokens need up to {needed} KV cache blocks of "
            f"{info.block_size} tokens, the whole cache has {info.num_blocks}"
        )


def _check_encode(request: EncodeRequest, info: EngineInfo, names: Mapping[str, str]) -> None:
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
    _check_tokens(name, request.tokens, info.vocab_size)
    _check_types(names.get("token_types", "token_types"), request, info.encoder)
    _check_ia3(request, info, names)
    if not 1 <= request.num_tokens <= info.max_model_len:
        raise InvalidRequest(
            f"{name} has {request.num_tokens} tokens; the model takes 1 to {info.max_model_len}"
        )


def _check_width(name: str, request: EncodeRequest, encoder: EncoderInfo) -> None:
    assert request.hidden_states is not None
    shape = request.hidden_states.shape
    if len(shape) != 2 or shape[1] != encoder.hidden_size:
        raise InvalidRequest(f"{name} has shape {list(shape)}; allowed is [tokens, {encoder.hidden_size}]")
    if len(request.hidden_states.data) != 4 * shape[0] * shape[1]:
        raise InvalidRequest(f"{name} has {len(request.hidden_states.data)} bytes for shape {list(shape)}")
    if request.tokens:
        raise InvalidRequest(f"{name} came beside token ids; one of them is allowed")


def _check_types(name: str, request: EncodeRequest, encoder: EncoderInfo) -> None:
    types = request.token_types
    if types and len(types) != len(request.tokens):
        raise InvalidRequest(f"{name} has {len(types)} values for {len(request.tokens)} tokens")
    for position, value in enumerate(types):
        if not 0 <= value < max(encoder.num_token_types, 1):
            raise InvalidRequest(
                f"{name}: {value} at position {position} is not in [0, {max(encoder.num_token_types, 1)})"
            )
