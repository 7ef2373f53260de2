# SPDX-License-Identifier: BSD-3-Clause
"""A step's part in a beam search: copies before it, candidates after it. Rank 0's scheduler chooses."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import ops
from ..engine.batch import Batch, FloatArray, Int32Array, StepResult
from .device_batch import DeviceBatch
from .graphs import Sampled
from .transfer import to_device


def copy_beams(batch: Batch, token_pool: Tensor, kv_cache: Tensor) -> None:
    """Gives beams that took others' places the tokens of their parents, and blocks of their own."""
    assert batch.beams is not None
    slots, blocks = batch.beams.slot_copies, batch.beams.block_copies
    if not slots.size + blocks.size:
        return
    packed = to_device([slots, blocks], token_pool.device)
    slot_part, block_part = torch.split(packed, [slots.size, blocks.size])
    if slots.size:
        length = int((batch.num_computed + batch.query_lens).max())
        sources, targets = slot_part.view(2, -1)
        ops.copy_rows(token_pool, sources, targets, length)
    if blocks.size:
        ops.copy_blocks(kv_cache, *block_part.view(2, -1))


class BeamSampler:
    """Candidates for the rows of a step that belong to beams.

    transformers normalises the logits, then bans and penalises; FasterTransformer the other way round.
    """

    def __init__(self, rule: str) -> None:
        self._normalises_first = rule == "huggingface"

    def before(self, logits: Tensor, step: DeviceBatch) -> None:
        """In place, before the logits are processed."""
        if self._normalises_first and len(step.beam_rows):
            ops.normalise_rows(logits, step.beam_rows)

    def after(self, logits: Tensor, step: DeviceBatch, sampled: Sampled) -> Sampled:
        """`sampled` with the candidates behind it: [S + R * K] each, as `unpack` reads it."""
        rows = step.beam_rows
        if not len(rows):
            return sampled
        if not self._normalises_first:
            ops.normalise_rows(logits, rows)
        tokens, logprobs = sampled
        shape = (len(rows), step.num_candidates)
        candidates, scores = tokens.new_empty(shape), logprobs.new_empty(shape)
        ops.beam_candidates(logits, rows, candidates, scores)
        return torch.cat((tokens, candidates.view(-1))), torch.cat((logprobs, scores.view(-1)))


def num_samples(batch: Batch) -> int:
    """Numbers that a step gives back: S + R * K."""
    candidates = 0 if batch.beams is None else len(batch.beams.rows) * batch.beams.num_candidates
    return len(batch.sample_rows) + candidates


def unpack(
    batch: Batch, tokens: Int32Array, logprobs: FloatArray, contexts: npt.NDArray[np.float64] | None
) -> StepResult:
    """What `BeamSampler.after` has packed."""
    if batch.beams is None:
        return StepResult(tokens, logprobs, contexts=contexts)
    count, shape = len(batch.sample_rows), (len(batch.beams.rows), batch.beams.num_candidates)
    candidates = tokens[count:].reshape(shape), logprobs[count:].reshape(shape)
    return StepResult(tokens[:count], logprobs[:count], *candidates, contexts=contexts)
