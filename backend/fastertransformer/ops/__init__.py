# SPDX-License-Identifier: BSD-3-Clause
"""The ops of the engine, each defined by its Python body and replaced by a kernel where there is one."""

from .activation import activation, gated_activation
from .add import add
from .attention import (
    CHUNK_KEYS,
    attention_work,
    attention_workspace_size,
    chunk_keys,
    num_key_chunks,
    paged_attention,
)
from .beam_search import beam_candidates, copy_blocks, copy_rows, normalise_rows
from .decoder_stack import STACK_BLOCK_MULTIPLE, DecoderStackKernel, decoder_stack_kernel
from .disentangled_attention import disentangled_attention
from .embedding import add_positions, embedding
from .encoder_attention import bias_by_distance, encoder_attention
from .int8 import pack_int8, takes_packed_int8, unpack_int8
from .kv_cache import kv_write
from .library import (
    library_activated_linear,
    library_activates,
    library_linear,
    library_logits,
    library_rows,
)
from .linear import (
    activated_linear,
    activated_rows,
    expand_int8,
    gated_linear,
    gated_rows,
    skinny_activated_linear,
    skinny_activated_linear_int8,
    skinny_fused_rows,
    skinny_gated_linear,
    skinny_gated_linear_int8,
    skinny_int8_rows,
    skinny_linear,
    skinny_linear_int8,
    skinny_linear_sum,
    skinny_logits,
    skinny_logits_int8,
    skinny_rows,
    tile_activated_linear,
    tile_linear,
    tile_rows,
)
from .moe import (
    combine_experts,
    group_by_expert,
    grouped_gated_linear,
    grouped_linear,
    has_grouped_kernels,
    library_is_faster,
    route,
)
from .norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from .pinned import copy_pinned
from .pool import pool
from .registry import (
    cuda_architectures,
    disable,
    has_kernels,
    names_ops,
    set_device,
    set_num_threads,
)
from .rope import add_to_cache, rope, rope_kv_write
from .sampling import (
    SAMPLING_FLOATS,
    SAMPLING_INTEGERS,
    greedy,
    log_probability,
    process_logits,
    sample,
)
from .token_pool import put_tokens, take_tokens

__all__ = [
    "CHUNK_KEYS",
    "SAMPLING_FLOATS",
    "SAMPLING_INTEGERS",
    "STACK_BLOCK_MULTIPLE",
    "DecoderStackKernel",
    "activated_linear",
    "activated_rows",
    "activation",
    "add",
    "add_layer_norm",
    "add_positions",
    "add_rms_norm",
    "add_to_cache",
    "attention_work",
    "attention_workspace_size",
    "beam_candidates",
    "bias_by_distance",
    "chunk_keys",
    "combine_experts",
    "copy_blocks",
    "copy_pinned",
    "copy_rows",
    "cuda_architectures",
    "decoder_stack_kernel",
    "disable",
    "disentangled_attention",
    "embedding",
    "encoder_attention",
    "expand_int8",
    "gated_activation",
    "gated_linear",
    "gated_rows",
    "greedy",
    "group_by_expert",
    "grouped_gated_linear",
    "grouped_linear",
    "has_grouped_kernels",
    "has_kernels",
    "kv_write",
    "layer_norm",
    "library_activated_linear",
    "library_activates",
    "library_is_faster",
    "library_linear",
    "library_logits",
    "library_rows",
    "log_probability",
    "names_ops",
    "normalise_rows",
    "num_key_chunks",
    "pack_int8",
    "paged_attention",
    "pool",
    "process_logits",
    "put_tokens",
    "rms_norm",
    "rope",
    "rope_kv_write",
    "route",
    "sample",
    "set_device",
    "set_num_threads",
    "skinny_activated_linear",
    "skinny_activated_linear_int8",
    "skinny_fused_rows",
    "skinny_gated_linear",
    "skinny_gated_linear_int8",
    "skinny_int8_rows",
    "skinny_linear",
    "skinny_linear_int8",
    "skinny_linear_sum",
    "skinny_logits",
    "skinny_logits_int8",
    "skinny_rows",
    "take_tokens",
    "takes_packed_int8",
    "tile_activated_linear",
    "tile_linear",
    "tile_rows",
    "unpack_int8",
]
