# SPDX-License-Identifier: BSD-3-Clause
"""Which sizes of steps get CUDA graphs, and to what multiple of tokens others are filled up."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .. import ops
from ..config import EngineConfig
from ..parallel.world import World

_SINGLE = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_SINGLE_STEP = 32
_TOKENS = (16, 32, 64, 128, 192, 256, 384, 512, 1024, 2048)
"""64 is among them, so that filling up never changes which kernels multiply: up to 64 rows ours do."""
_SEQUENCES = (8, 64)
"""The same for the rows that sample. Each number costs a graph for every number of tokens."""
_LAUNCH_BOUND_BYTES = 1 << 38
"""Tokens times bytes of a layer: 512 tokens of a model of seven billion weights in 16 bits. An estimate:
in 16 bits these are the layer's operations, of which an H200 does so many in the 0.4 ms that launching them
may take a slow host."""


class Bucket(NamedTuple):
    """The size of a step's arrays, and of its attention's grids."""

    tokens: int
    sequences: int
    max_seqlen_q: int
    """No sequence computes more tokens; 1: every one computes one, and samples."""

    @property
    def is_decode(self) -> bool:
        return self.max_seqlen_q == 1


def decode_buckets(max_num_seqs: int) -> list[Bucket]:
    """Of single tokens, up to the largest step that runs."""
    sizes = (*_SINGLE, *range(_SINGLE[-1] + _SINGLE_STEP, max_num_seqs, _SINGLE_STEP), max_num_seqs)
    return [Bucket(size, size, 1) for size in sorted({min(size, max_num_seqs) for size in sizes})]


def launch_bound_tokens(layer_bytes: int) -> int:
    """Up to how many tokens a GPU computes a layer in less time than a host launches its kernels one by one.

    Args:
        layer_bytes: what a step reads of a layer's weights.
    """
    return _LAUNCH_BOUND_BYTES // layer_bytes


def prompt_buckets(layer_bytes: int, max_num_tokens: int, max_num_seqs: int) -> list[Bucket]:
    """Of prompts, chunks and single tokens together, of up to `launch_bound_tokens`: larger steps keep a GPU
    busy, and would be filled up for nothing.

    Args:
        layer_bytes: what a step reads of a layer's weights. max_num_tokens: of a step.
    """
    bound = launch_bound_tokens(layer_bytes)
    sizes = sorted({min(size, max_num_tokens) for size in _TOKENS if size <= bound} - {1})
    return [
        Bucket(tokens, sequences, tokens)
        for tokens in sizes
        for sequences in sorted({min(count, tokens, max_num_seqs) for count in (*_SEQUENCES, max_num_seqs)})
    ]


def first_that_holds(buckets: Sequence[Bucket], tokens: int, sequences: int) -> Bucket | None:
    """Of `buckets`, which ascend."""
    return next((each for each in buckets if each.tokens >= tokens and each.sequences >= sequences), None)


def token_multiple(config: EngineConfig, world: World, device: torch.device, dtype: torch.dtype) -> int:
    """To what multiple of tokens steps without a graph are filled up, equal on all ranks, which all call it.

    1 where stages send each other what is needed alone, and where bodies of ops compute, some of which know
    no tokens of nobody.
    """
    multiple = world.minimum(ops.library_rows(device, dtype))  # the ranks' CPUs may differ
    return multiple if world.mesh.pp_size == 1 and not ops.names_ops(config.disable_kernels) else 1
