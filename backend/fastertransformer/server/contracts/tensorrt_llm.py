# SPDX-License-Identifier: BSD-3-Clause
"""TensorRT-LLM's `tensorrt_llm` model: token ids in and out, over the same engine.

An input that FasterTransformer has too is its row under another name, so that both do the same. A
streamed response holds the new tokens only; any other holds the prompt too, unless it is excluded.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import InvalidRequest
from ..protocol import Array, Input, Output, first_row, per_row
from . import unserved
from .core import INPUTS as FASTERTRANSFORMER_INPUTS
from .core import TokenTensors
from .core_call import CoreCall, if_asked, never, samples
from .logits import context_logits, generation_logits
from .prompts import matrix_rows

_SAME = (
    "input_ids input_lengths request_output_len end_id stop_words_list bad_words_list beam_width temperature"
    " runtime_top_k runtime_top_p min_p len_penalty repetition_penalty beam_search_diversity_rate"
    " presence_penalty frequency_penalty num_return_sequences no_repeat_ngram_size early_stopping"
)
_RENAMED = {
    "min_tokens": "min_length",
    "seed": "random_seed",
    "return_log_probs": "is_return_log_probs",
    "runtime_top_p_min": "top_p_min",
    "runtime_top_p_decay": "top_p_decay",
    "runtime_top_p_reset_ids": "top_p_reset_ids",
}


def _shared() -> tuple[Input, ...]:
    """FasterTransformer's rows; here ids and lengths are signed."""
    rows = {row.name: row for row in FASTERTRANSFORMER_INPUTS}
    names = {name: name for name in _SAME.split()} | _RENAMED
    return tuple(
        replace(
            rows[old],
            name=new,
            data_type=rows[old].data_type.replace("UINT32", "INT32"),
            optional=rows[old].optional or new == "input_ids",  # a request to stop another one needs none
        )
        for new, old in names.items()
    )


def _dense_bias(name: str, array: Array, batch: int) -> Sequence[Any]:
    """[batch, vocabulary]: what is added to every logit."""
    if array.ndim != 2 or len(array) not in (1, batch):
        raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is [{batch}, vocabulary]")
    biases = [tuple((int(token), float(row[token])) for token in np.flatnonzero(row)) for row in array]
    return biases if len(biases) == batch else biases * batch


INPUTS = (
    *_shared(),
    Input("pad_id", "TYPE_INT32", (1,), per_row, "pad_id"),
    Input("streaming", "TYPE_BOOL", (1,), first_row, "streaming", False),
    Input("stop", "TYPE_BOOL", (1,), per_row),  # a request with it never gets here: it ends another one
    Input("exclude_input_in_output", "TYPE_BOOL", (1,), first_row, "exclude_input"),
    Input("return_num_input_tokens", "TYPE_BOOL", (1,), first_row, "return_num_input_tokens", False),
    Input("return_num_output_tokens", "TYPE_BOOL", (1,), first_row, "return_num_output_tokens", False),
    Input("return_context_logits", "TYPE_BOOL", (1,), first_row, "wants_context_logits", False),
    Input("return_generation_logits", "TYPE_BOOL", (1,), first_row, "wants_logits", False),
    Input("embedding_bias", "TYPE_FP32", (-1,), _dense_bias, "logit_bias", ()),
    Input("prompt_embedding_table", "TYPE_FP16", (-1, -1), matrix_rows, "prompt_table"),
    Input("prompt_vocab_size", "TYPE_INT32", (1,), per_row, "prompt_vocab_size"),
    *unserved.TOKENS,
)


def _counts(call: CoreCall) -> Array:
    """[sequences] tokens that the response has of each."""
    if call.shape.streams:
        return call.generated - call.sent
    return call.generated + call.prompt_lens * call.shape.includes_prompt


def _starts(call: CoreCall) -> Array:
    """[sequences] where they begin."""
    if call.shape.streams:
        return call.prompt_lens + call.sent
    return call.prompt_lens * (not call.shape.includes_prompt)


def _window(lines: Array, starts: Array, counts: Array) -> Array:
    """[sequences, L] -> [sequences, largest count]; what lies behind a count stays what it is."""
    places = starts[:, None] + np.arange(counts.max(initial=0))
    return np.take_along_axis(lines, np.minimum(places, lines.shape[-1] - 1), -1)


def _output_ids(call: CoreCall) -> Array:
    return _window(call.output_ids, _starts(call), _counts(call))


def _output_log_probs(call: CoreCall) -> Array:
    sent = call.sent * call.shape.streams
    return _window(call.logprobs, sent, call.generated - sent)


def _if_wanted(wish: str, compute: Callable[[CoreCall], Array]) -> Callable[[CoreCall], Array | None]:
    return lambda call: compute(call) if wish in call.shape.wants else None


def _num_new(call: CoreCall) -> Array:
    """[batch, 1]: of all sequences that a row returns."""
    total: Array = samples(lambda call: call.generated - call.sent)(call).sum(1, keepdims=True)
    return total


def _batch_index(call: CoreCall) -> Array:
    return np.arange(call.batch)[:, None]


def not_sent(names: str, data_type: str, *dims: int) -> tuple[Output[Any], ...]:
    """Outputs that may be declared; the inputs that ask for them are refused."""
    return tuple(Output(name, data_type, dims, never) for name in names.split())


NOT_SENT = (
    *not_sent("context_phase_params", "TYPE_UINT8", -1),
    *not_sent(
        "kv_cache_alloc_new_blocks kv_cache_reused_blocks kv_cache_alloc_total_blocks", "TYPE_INT32", 1
    ),
    *not_sent("arrival_time_ns first_scheduled_time_ns", "TYPE_INT64", 1),
    *not_sent("first_token_time_ns last_token_time_ns", "TYPE_INT64", 1),
    *not_sent("acceptance_rate", "TYPE_FP32", 1),
    *not_sent("total_accepted_draft_tokens total_draft_tokens", "TYPE_INT32", 1),
)

OUTPUTS: tuple[Output[CoreCall], ...] = (
    Output("output_ids", "TYPE_INT32", (-1, -1), samples(_output_ids)),
    Output("sequence_length", "TYPE_INT32", (-1,), samples(_counts)),
    Output("cum_log_probs", "TYPE_FP32", (-1,), if_asked(lambda call: call.cum_logprobs)),
    Output("output_log_probs", "TYPE_FP32", (-1, -1), if_asked(_output_log_probs)),
    Output("context_logits", "TYPE_FP32", (-1, -1), context_logits),
    Output("generation_logits", "TYPE_FP32", (-1, -1, -1), generation_logits),
    Output("batch_index", "TYPE_INT32", (1,), _batch_index),
    Output("sequence_index", "TYPE_INT32", (1,), lambda call: 0 * _batch_index(call)),
    Output(
        "num_input_tokens",
        "TYPE_INT32",
        (1,),
        _if_wanted("return_num_input_tokens", lambda call: call.prompt_lens[:: call.num_samples, None]),
    ),
    Output(
        "num_output_tokens",
        "TYPE_INT32",
        (1,),
        _if_wanted("return_num_output_tokens", _num_new),
    ),
    *NOT_SENT,
)
TENSORRT_LLM = TokenTensors(INPUTS, OUTPUTS)
