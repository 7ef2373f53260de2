# SPDX-License-Identifier: BSD-3-Clause
"""The ops of the engine, each defined by its Python body and replaced by a kernel where there is one."""

from .activation import activation, gated_activation
from .attention import attention_work, attention_workspace_size, paged_attention
from .embedding import embedding
from .kv_cache import kv_write
from .linear import (
    skinny_int8_rows,
    skinny_linear,
    skinny_linear_int8,
    skinny_logits,
    skinny_logits_int8,
    skinny_rows,
)
from .norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from .registry import disable, has_kernels, set_num_threads
from .rope import rope, rope_kv_write
from .sampling import apply_penalties, ban_words, greedy, log_probability, philox_uniform, sample
from .token_pool import put_tokens, take_tokens

__all__ = [
    "activation",
    "add_layer_norm",
    "add_rms_norm",
    "apply_penalties",
    "attention_work",
    "attention_workspace_size",
    "ban_words",
    "disable",
    "embedding",
    "gated_activation",
    "greedy",
    "has_kernels",
    "kv_write",
    "layer_norm",
    "log_probability",
    "paged_attention",
    "philox_uniform",
    "put_tokens",
    "rms_norm",
    "rope",
    "rope_kv_write",
    "sample",
    "set_num_threads",
    "skinny_int8_rows",
    "skinny_linear",
    "skinny_linear_int8",
    "skinny_logits",
    "skinny_logits_int8",
    "skinny_rows",
    "take_tokens",
]
