# SPDX-License-Identifier: BSD-3-Clause
"""Inputs of TensorRT-LLM that have no meaning here: refused, or ignored where nothing depends on them.

All are declared, so that a config.pbtxt of that server loads.
"""

from collections.abc import Sequence
from typing import Any

from ..protocol import Array, Input, only, refused


def ignored(names: str, data_type: str, *dims: int) -> tuple[Input, ...]:
    """Inputs whose value changes no token of a request that is served."""
    return tuple(Input(name, data_type, dims, _ignore) for name in names.split())


def not_served(reason: str, names: str, data_type: str, *dims: int) -> tuple[Input, ...]:
    """Inputs that may be declared but not sent."""
    return tuple(Input(name, data_type, dims, refused(reason)) for name in names.split())


def false_only(reason: str, names: str) -> tuple[Input, ...]:
    """Wishes that are not fulfilled; it may be said that there are none."""
    return tuple(Input(name, "TYPE_BOOL", (1,), only(False, reason)) for name in names.split())


def _ignore(_name: str, _array: Array, batch: int) -> Sequence[Any]:
    return [None] * batch


_LORA, _GUIDES = "LoRA adapters are not served", "guided decoding is not served"
_DRAFTS, _ENCODERS = "draft tokens are not served", "encoders are not served"
_IMAGES = "images and videos are not served"
_PROMPTS = "a text has no ids of its rows; the model of token ids takes prompt tables"

_LOGITS = "the model of token ids returns logits"

_BOTH = (
    *false_only("these figures are in the server's metrics", "return_perf_metrics"),
    *not_served(_LORA, "lora_task_id", "TYPE_UINT64", 1),
    *not_served(_LORA, "lora_weights", "TYPE_FP16", -1, -1),
    *not_served(_LORA, "lora_config", "TYPE_INT32", -1, 3),
    *not_served(_GUIDES, "guided_decoding_guide_type guided_decoding_guide", "TYPE_STRING", 1),
)
TEXT = (
    *false_only(_LOGITS, "return_context_logits return_generation_logits"),
    *_BOTH,
    *not_served(_ENCODERS, "decoder_text_input", "TYPE_STRING", 1),
    *not_served(_IMAGES, "image_input", "TYPE_FP16", -1, 3, -1, -1),
    *not_served(_IMAGES, "image_bytes_input video_bytes_input", "TYPE_UINT8", -1, -1, -1, -1),
    *not_served(_IMAGES, "image_url_input", "TYPE_STRING", 1),
    Input("num_draft_tokens", "TYPE_INT32", (1,), only(0, _DRAFTS)),
    *false_only(_DRAFTS, "use_draft_logits"),
    *not_served(_PROMPTS, "prompt_embedding_table", "TYPE_FP16", -1, -1),
    *not_served(_PROMPTS, "prompt_table_extra_id", "TYPE_UINT64", 1),
    *ignored("prompt_vocab_size", "TYPE_INT32", 1),  # means something with a table only
)
TOKENS = (
    *_BOTH,
    *not_served(_ENCODERS, "encoder_input_features", "TYPE_FP16", -1, -1),
    *not_served(_ENCODERS, "encoder_output_lengths decoder_input_lengths", "TYPE_INT32", 1),
    *not_served(_ENCODERS, "decoder_input_ids", "TYPE_INT32", -1),
    *not_served(_ENCODERS, "cross_attention_mask", "TYPE_BOOL", -1, -1),
    *false_only(_ENCODERS, "skip_cross_attn_blocks"),
    *not_served(_DRAFTS, "draft_input_ids", "TYPE_INT32", -1),
    *not_served(_DRAFTS, "draft_logits", "TYPE_FP32", -1, -1),
    *ignored("draft_acceptance_threshold", "TYPE_FP32", 1),
    *ignored("lookahead_window_size lookahead_ngram_size lookahead_verification_set_size", "TYPE_INT32", 1),
    *ignored("prompt_table_extra_ids", "TYPE_UINT64", -1),  # cached blocks are told apart by the tables
    *not_served("rotary tables of a request are not served", "mrope_rotary_cos_sin", "TYPE_FP32", -1),
    *not_served("rotary tables of a request are not served", "mrope_position_deltas", "TYPE_INT64", 1),
    *not_served("prompts of another engine are not served", "context_phase_params", "TYPE_UINT8", -1),
    # Hints for the cache, which decides by itself what it keeps.
    *ignored("retention_token_range_starts retention_token_range_ends", "TYPE_INT32", -1),
    *ignored("retention_token_range_priorities retention_token_range_durations_ms", "TYPE_INT32", -1),
    *ignored("retention_decode_priority retention_decode_duration_ms", "TYPE_INT32", 1),
)
