# SPDX-License-Identifier: BSD-3-Clause
"""Requests that generate: prompt, encoder input and output must fit the model and its cache."""

from collections.abc import Callable, Mapping, Sequence

from ..errors import InvalidRequest
from ..messages import EngineInfo, PromptKind, Request, token_ids
from .values import (
    MAX_BAD_WORD_LEN,
    check_biases,
    check_ia3,
    check_ranges,
    check_reset_id,
    check_tokens,
    check_words,
)

_FLOAT_BYTES = 4
MAX_LOGITS_BYTES = 256 << 20
"""Of one tensor of logits in one answer."""

_LOGITS: dict[str, Callable[[Request], int]] = {
    "wants_context_logits": lambda request: len(request.prompt),
    "wants_logits": lambda request: request.sampling.max_tokens,
}
"""Wishes, and how many rows of logits they bring."""


def check_generate(request: Request, info: EngineInfo, names: Mapping[str, str]) -> None:
    if info.encoder is not None:
        raise InvalidRequest(
            f"the model is an encoder ({info.model_type}): it encodes, and generates no tokens"
        )
    check_ranges(request.sampling, names)
    if request.memory_len < 0:
        raise InvalidRequest(
            f"{names.get('memory_len', 'memory_len')} is {request.memory_len}; allowed is an integer >= 0"
        )
    _check_embeddings(request, info, names)
    rows = 0 if info.max_encoder_len else num_prompt_rows(request, info)
    check_tokens(names.get("prompt", "prompt"), request.prompt, info.vocab_size, rows)
    check_words(names.get("stop_words", "stop_words"), request.sampling.stop_words, info.vocab_size)
    bad_words = request.sampling.bad_words
    check_words(names.get("bad_words", "bad_words"), bad_words, info.vocab_size, MAX_BAD_WORD_LEN)
    check_tokens(names.get("end_ids", "end_ids"), request.sampling.end_ids or (), info.vocab_size)
    _check_encoder(request, info, names)
    _check_forced(request, info, names)
    check_ia3(request, info, names)
    check_reset_id(names.get("top_p_reset_id", "top_p_reset_id"), request.sampling, info.vocab_size)
    check_biases(names.get("logit_bias", "logit_bias"), request.sampling.logit_bias, info.vocab_size)
    _check_length(request, info, names)
    check_logits([request], info, names)
    if request.sampling.beam_width > 1:
        _check_beams(request, info, names)


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
    if request.prompt[:length] != token_ids(range(-1, -1 - length, -1)):
        raise InvalidRequest(f"prompt does not begin with the {length} tokens of task {request.prompt_task}")


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
    check_tokens(name, request.forced_tokens, info.vocab_size)
    if count > request.sampling.max_tokens:
        length_name = names.get("max_tokens", "max_tokens")
        raise InvalidRequest(
            f"{name} has {count} tokens; allowed are {length_name}, which is {request.sampling.max_tokens}"
        )


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
    check_tokens(name, request.encoder_tokens, info.encoder_vocab_size, num_prompt_rows(request, info))
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
