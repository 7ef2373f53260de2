# SPDX-License-Identifier: BSD-3-Clause
"""How many KV blocks fit: from the memory that is left after the weights, and told with its numbers."""

from dataclasses import dataclass

import psutil
import torch

from .. import ops
from ..config import EngineConfig
from ..engine.batch import MAX_CONTEXT_LOGITS_BYTES
from ..errors import ModelLoadError
from ..models import EncoderModel, Model
from .buckets import prompt_buckets

# A CPU machine is shared with the rest of the system, and pages of a large cache come in as they are used.
_CPU_SHARE = 0.5
_GIB = 1 << 30
_GPU_RESERVE = _GIB // 2
"""Of a GPU, for graphs and for libraries."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What one rank holds."""

    weight_bytes: int
    workspace_bytes: int
    """What the layers of a step and graphs need, by estimate; on a CPU not counted."""
    block_bytes: int
    num_blocks: int
    block_size: int
    max_model_len: int
    max_encoder_len: int
    """0: the model has no encoder."""
    max_num_seqs: int

    def __str__(self) -> str:
        cache = self.num_blocks * self.block_bytes
        tokens = self.num_blocks * self.block_size
        workspace = f"workspace {self.workspace_bytes / _GIB:.2f} GiB + " if self.workspace_bytes else ""
        encoder = f" behind an input of {self.max_encoder_len}" if self.max_encoder_len else ""
        return (
            f"weights {self.weight_bytes / _GIB:.2f} GiB + {workspace}"
            f"KV cache {cache / _GIB:.2f} GiB per rank: "
            f"{self.num_blocks} blocks of {self.block_size} = {tokens} tokens; "
            f"longest sequence {self.max_model_len}{encoder}, at most {self.max_num_seqs} at once"
        )


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """What one rank of an encoder holds, and what its steps are."""

    weight_bytes: int
    max_seqlen: int
    max_num_seqs: int
    max_graph_tokens: int
    """0: steps are launched kernel by kernel."""

    def __str__(self) -> str:
        graphs = self.max_graph_tokens
        return (
            f"weights {self.weight_bytes / _GIB:.2f} GiB per rank; longest input {self.max_seqlen}, "
            f"at most {self.max_num_seqs} at once"
            + (f"; steps of up to {graphs} tokens are graphs" if graphs else "")
        )


def block_bytes(model: Model, block_size: int) -> int:
    """Bytes of one block over all layers of this rank, keys and values."""
    shape = model.kv_cache_shape(1, block_size)
    return torch.Size(shape).numel() * model.dtype.itemsize


def blocks_that_fit(config: EngineConfig, model: Model, longest: int) -> int:
    """Blocks on this rank: what was asked for, or what fits, but never more than can be used.

    Args:
        longest: tokens of the longest sequence that the model allows.

    Raises:
        ModelLoadError: what was asked for does not fit.
    """
    size = config.cache.block_size
    available = _available_bytes(config, model) // block_bytes(model, size)
    if config.cache.max_tokens:
        wanted = -(-config.cache.max_tokens // size)
        if wanted > available:
            raise ModelLoadError(
                f"max_tokens_in_paged_kv_cache {config.cache.max_tokens} needs {wanted} blocks of "
                f"{block_bytes(model, size)} bytes, memory holds {available}"
            )
        return wanted
    useful = config.max_num_seqs * (-(-longest // size) + -(-encoder_positions(model) // size))
    return min(available, useful)


def plan_memory(config: EngineConfig, model: Model, num_blocks: int, longest: int) -> MemoryPlan:
    """The plan that all ranks follow.

    Raises:
        ModelLoadError: the cache cannot hold what the configuration promises.
    """
    tokens = num_blocks * config.cache.block_size
    if tokens < max(config.max_model_len, config.cache.block_size):
        raise ModelLoadError(
            f"the KV cache holds {tokens} tokens ({num_blocks} blocks of "
            f"{block_bytes(model, config.cache.block_size)} bytes), but one sequence of max_model_len "
            f"{config.max_model_len or 'any length'} must fit: "
            "lower max_model_len, raise kv_cache_free_gpu_mem_fraction or use more ranks"
        )
    return MemoryPlan(
        weight_bytes=model.weight_bytes,
        workspace_bytes=workspace_bytes(config, model),
        block_bytes=block_bytes(model, config.cache.block_size),
        num_blocks=num_blocks,
        block_size=config.cache.block_size,
        max_model_len=min(longest, tokens),
        max_encoder_len=min(encoder_positions(model), tokens),
        max_num_seqs=config.max_num_seqs,
    )


def workspace_bytes(config: EngineConfig, model: Model) -> int:
    """Activations of the largest step, logits of all sequences and of prompts, graphs; 0 on a CPU."""
    if model.device.type != "cuda":
        return 0
    spec = model.spec
    widest = 4 * spec.hidden_size + 3 * spec.intermediate_size
    if spec.moe is not None:
        of_expert = 2 * spec.hidden_size + 3 * spec.moe.intermediate_size
        widest += spec.moe.num_experts_per_tok * of_expert
    num_tokens = max(config.max_num_batched_tokens, encoder_positions(model)) + _most_graph_tokens(
        config, model
    )
    activations = num_tokens * widest * model.dtype.itemsize + 4 * _num_cross_chunks(config, model) * (
        ops.attention_workspace_size(1, model.num_heads, spec.head_dim)
    )
    logits = config.max_num_seqs * spec.vocab_size * 4 + MAX_CONTEXT_LOGITS_BYTES
    return activations + 2 * logits + _GPU_RESERVE


def workspace_size(config: EngineConfig, model: Model, num_blocks: int) -> int:
    """Float32 elements of the attention kernels' scratch for the most chunks that can run at once."""
    if model.device.type != "cuda":
        return 0
    # Twice: a sequence that forgets may come in pieces, of which the first and the last have one query.
    num_chunks = 2 * (num_blocks * config.cache.block_size // ops.CHUNK_KEYS + config.max_num_seqs)
    num_chunks = max(num_chunks, _num_cross_chunks(config, model))
    return ops.attention_workspace_size(num_chunks, model.num_heads, model.spec.head_dim)


def _most_graph_tokens(config: EngineConfig, model: Model) -> int:
    """Of the largest graph, which has memory of its own."""
    buckets = prompt_buckets(model.layer_bytes, config.max_num_batched_tokens, config.max_num_seqs)
    return max((bucket.tokens for bucket in buckets), default=0)


def encoder_positions(model: Model) -> int:
    """The longest input that the encoder can take; 0: there is none."""
    return 0 if model.spec.encoder is None else model.spec.encoder.max_position_embeddings


def _num_cross_chunks(config: EngineConfig, model: Model) -> int:
    """Of a step in which every token attends to the longest encoder input."""
    return config.max_num_batched_tokens * -(-encoder_positions(model) // ops.CHUNK_KEYS)


def longest_sequence(config: EngineConfig, model: Model | EncoderModel) -> int:
    """Tokens of the longest sequence by model and configuration.

    Raises:
        ModelLoadError: max_model_len is beyond the model's positions.
    """
    limit = model.info.max_position_embeddings
    if config.max_model_len > limit:
        raise ModelLoadError(f"max_model_len is {config.max_model_len}; the model's positions end at {limit}")
    return config.max_model_len or limit


def _available_bytes(config: EngineConfig, model: Model) -> int:
    """Raises: ModelLoadError: the workspace alone does not fit."""
    fraction = config.cache.memory_fraction
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(model.device)
        left = free - workspace_bytes(config, model)
        if left <= 0:
            raise ModelLoadError(
                f"of {total / _GIB:.1f} GiB of GPU memory the weights leave {free / _GIB:.2f} GiB, but the"
                f" workspace needs {workspace_bytes(config, model) / _GIB:.2f} GiB: lower"
                " max_num_batched_tokens or max_num_seqs, or use more ranks"
            )
        return int(left * fraction)
    ranks = config.parallel.world_size
    return int(psutil.virtual_memory().available * _CPU_SHARE * fraction / ranks)
