# SPDX-License-Identifier: BSD-3-Clause
"""Cases: from logits to tokens, in steps all of whose rows ask for the same."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from ....models.spec import ModelSpec
from ....ops import SAMPLING_FLOATS, SAMPLING_INTEGERS
from .case import Arguments, Case, Inputs

_LOGIT_BYTES = 4
_TOKEN_BYTES = 4
_CONTEXT = 1024
_BAD_WORDS = (16, 4)
_END_IDS = (8, 1)
_BIASES = (16, 2)
_NEUTRAL = {
    "temperature": 1.0,
    "repetition_penalty": 1.0,
    "top_p": 1.0,
    "top_p_decay": 1.0,
    "wants_logprob": 1,
}
_DRAWS: dict[str, dict[str, float]] = {"top-k": {"top_k": 50}, "top-p": {"top_p": 0.9}, "all": {}}


def sampling_cases(spec: ModelSpec, rows: Iterable[int]) -> Iterator[Case]:
    """Every op of the sampler with every number of rows."""
    for count in rows:
        yield from _cases(spec.vocab_size, count)


def _cases(vocab_size: int, count: int) -> Iterator[Case]:
    """Logits are read once; where they are processed, those of known tokens are written too. Of the bodies
    only greedy's reads nothing back from the device."""
    sizes, read = f"{count}x{vocab_size}", count * vocab_size * _LOGIT_BYTES

    def logits(inputs: Inputs) -> Tensor:
        return inputs.normal(count, vocab_size, dtype=torch.float32)

    def greedy(inputs: Inputs) -> Arguments:
        return logits(inputs), _slots(inputs, count)

    def process(inputs: Inputs) -> Arguments:
        """A penalty so weak that logits stay finite however often it is applied, and unlikely bad words."""
        pool = inputs.integers(vocab_size, count, 2 * _CONTEXT)
        tables = _tables(inputs, count, {"presence_penalty": 1e-6, "num_bad_words": _BAD_WORDS[0]})
        words = (inputs.integers(vocab_size, count, *size) for size in (_BAD_WORDS, _END_IDS, _BIASES))
        return (logits(inputs), pool, _slots(inputs, count), _lengths(inputs, count), *tables, *words)

    def sample(parameters: dict[str, float], inputs: Inputs) -> Arguments:
        pool = inputs.integers(vocab_size, count, 2 * _CONTEXT)
        rows = logits(inputs), pool, _slots(inputs, count), _lengths(inputs, count)
        seeds = inputs.integers(1 << 30, count).long()
        return (*rows, *_tables(inputs, count, parameters), seeds)

    def log_probability(inputs: Inputs) -> Arguments:
        integers = _tables(inputs, count, {})[1]
        return logits(inputs), inputs.integers(vocab_size, count), _slots(inputs, count), integers

    known = count * min(_CONTEXT, vocab_size)
    touched = count * _CONTEXT * _TOKEN_BYTES + 2 * known * _LOGIT_BYTES
    yield Case(op="greedy", sizes=sizes, make=greedy, num_bytes=read)
    for name, parameters in _DRAWS.items():
        yield Case(
            op="sample",
            sizes=f"{sizes} {name}",
            make=partial(sample, parameters),
            num_bytes=read,
            capturable=False,
        )
    yield Case(op="log_probability", sizes=sizes, make=log_probability, num_bytes=read, capturable=False)
    yield Case(op="process_logits", sizes=sizes, make=process, num_bytes=touched, capturable=False)


def _slots(inputs: Inputs, count: int) -> Tensor:
    return inputs.permutation(count)


def _lengths(inputs: Inputs, count: int) -> Tensor:
    return torch.full((count,), _CONTEXT, dtype=torch.int32, device=inputs.device)


def _tables(inputs: Inputs, count: int, parameters: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Floats and integers of `count` slots with equal parameters; neutral where none is given."""
    chosen = _NEUTRAL | parameters

    def table(names: tuple[str, ...], dtype: torch.dtype) -> Tensor:
        column = torch.tensor([chosen.get(name, 0) for name in names], dtype=dtype, device=inputs.device)
        return column[:, None].repeat(1, count)

    return table(SAMPLING_FLOATS, torch.float32), table(SAMPLING_INTEGERS, torch.int32)
