# SPDX-License-Identifier: BSD-3-Clause
"""Cases: what a beam search adds to a step in which every row is a beam."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch

from ....models.spec import ModelSpec
from .attention import BLOCK_SIZE
from .case import Arguments, Case, Inputs

_CONTEXT = 1024
_WIDTH = 4
_INT_BYTES = 4
_FLOAT_BYTES = 4


def beam_cases(spec: ModelSpec, itemsize: int, rows: Iterable[int]) -> Iterator[Case]:
    """Every op of a beam search with every number of beams; all of them take another's place."""
    for count in rows:
        yield from _logits(spec.vocab_size, count)
        yield from _copies(spec, itemsize, count)


def _logits(vocab_size: int, count: int) -> Iterator[Case]:
    num_candidates = min(2 * _WIDTH, vocab_size)

    def normalise(inputs: Inputs) -> Arguments:
        counts = torch.full((count,), num_candidates, dtype=torch.int32, device=inputs.device)
        return inputs.normal(count, vocab_size, dtype=torch.float32), counts

    def candidates(inputs: Inputs) -> Arguments:
        tokens = inputs.integers(vocab_size, count, num_candidates)
        return (*normalise(inputs), tokens, inputs.uniform(count, num_candidates))

    read = count * vocab_size * _FLOAT_BYTES
    case = partial(Case, sizes=f"{count}x{vocab_size}", capturable=False)
    yield case(op="normalise_rows", make=normalise, num_bytes=2 * read)
    yield case(op="beam_candidates", make=candidates, num_bytes=read)


def _copies(spec: ModelSpec, itemsize: int, count: int) -> Iterator[Case]:
    heads, head_dim = spec.num_key_value_heads, spec.head_dim

    def places(inputs: Inputs) -> Arguments:
        return tuple(torch.split(inputs.permutation(2 * count), count))

    def rows(inputs: Inputs) -> Arguments:
        return inputs.integers(1000, 2 * count, 2 * _CONTEXT), *places(inputs), _CONTEXT

    def blocks(inputs: Inputs) -> Arguments:
        return inputs.normal(1, 2, 2 * count, heads, BLOCK_SIZE, head_dim), *places(inputs)

    row_bytes, block_bytes = _CONTEXT * _INT_BYTES, 2 * heads * BLOCK_SIZE * head_dim * itemsize
    yield Case(op="copy_rows", sizes=str(count), make=rows, num_bytes=2 * count * row_bytes)
    sizes = f"{count}x{heads}x{head_dim}"
    yield Case(op="copy_blocks", sizes=sizes, make=blocks, num_bytes=2 * count * block_bytes)
