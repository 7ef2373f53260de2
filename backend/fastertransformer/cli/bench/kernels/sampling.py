# SPDX-License-Identifier: BSD-3-Clause
"""Cases: from logits to tokens."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from ....models.spec import ModelSpec
from .case import Arguments, Case, Inputs

_LOGIT_BYTES = 4
_CONTEXT = 1024
_TOP_K = 50
_TOP_P = 0.9


def sampling_cases(spec: ModelSpec, rows: Iterable[int]) -> Iterator[Case]:
    """Every op of the sampler with every number of rows; logits are read, and written where they change."""
    for count in rows:
        yield from _cases(spec.vocab_size, count)


def _cases(vocab_size: int, count: int) -> Iterator[Case]:
    sizes, read = f"{count}x{vocab_size}", count * vocab_size * _LOGIT_BYTES

    def logits(inputs: Inputs) -> Tensor:
        return inputs.normal(count, vocab_size, dtype=torch.float32)

    def full(inputs: Inputs, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((count,), value, dtype=dtype, device=inputs.device)

    def history(inputs: Inputs) -> Arguments:
        """Token pool, slots, lengths."""
        pool = inputs.integers(vocab_size, max(64, count), 2 * _CONTEXT)
        return pool, inputs.permutation(max(64, count))[:count].long(), full(inputs, _CONTEXT, torch.int32)

    def greedy(inputs: Inputs) -> Arguments:
        return (logits(inputs),)

    def sample(top_k: int, top_p: float, inputs: Inputs) -> Arguments:
        filters = full(inputs, top_k, torch.int32), full(inputs, top_p), full(inputs, 0.0)
        return (logits(inputs), *filters, inputs.uniform(count))

    def log_probability(inputs: Inputs) -> Arguments:
        return logits(inputs), inputs.integers(vocab_size, count)

    def apply_penalties(inputs: Inputs) -> Arguments:
        """Neutral ones, since a logit that is penalised again and again leaves all bounds."""
        prompt_lengths = full(inputs, _CONTEXT // 2, torch.int32)
        penalties = full(inputs, 1.0), full(inputs, 0.0), full(inputs, 0.0)
        return (logits(inputs), *history(inputs), prompt_lengths, *penalties)

    def ban_words(inputs: Inputs) -> Arguments:
        return (logits(inputs), *history(inputs), inputs.integers(vocab_size, count, 8, 2))

    def philox_uniform(inputs: Inputs) -> Arguments:
        return inputs.integers(1 << 30, count).long(), inputs.integers(_CONTEXT, count)

    tokens = count * _CONTEXT * _LOGIT_BYTES
    yield Case(op="greedy", sizes=sizes, make=greedy, num_bytes=read)
    for name, top_k, top_p in (("top-k", _TOP_K, 0.0), ("top-p", 0, _TOP_P), ("all", 0, 0.0)):
        yield Case(
            op="sample",
            sizes=f"{sizes} {name}",
            make=partial(sample, top_k, top_p),
            num_bytes=read,
        )
    yield Case(op="log_probability", sizes=sizes, make=log_probability, num_bytes=read)
    yield Case(
        op="apply_penalties",
        sizes=sizes,
        make=apply_penalties,
        num_bytes=2 * min(read, tokens) + tokens,
        capturable=False,
    )
    yield Case(op="ban_words", sizes=sizes, make=ban_words, num_bytes=count * 64, capturable=False)
    yield Case(op="philox_uniform", sizes=str(count), make=philox_uniform, num_bytes=count * 16)
