# SPDX-License-Identifier: BSD-3-Clause
"""A step's part in a beam search: copies before it, candidates after it. Rank 0's scheduler chooses."""

import torch
from torch import Tensor

from .. import ops
from ..engine.batch import Batch
from .device_batch import DeviceBatch
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
        if self._normalises_first:
            ops.normalise_rows(logits, step.num_candidates)

    def after(self, logits: Tensor, step: DeviceBatch) -> tuple[Tensor, Tensor]:
        """Tokens [S, K] int32 and log-probabilities [S, K] float32, of the rows of beams."""
        if not self._normalises_first:
            ops.normalise_rows(logits, step.num_candidates)
        shape = (len(logits), step.max_candidates)
        tokens, logprobs = step.num_candidates.new_empty(shape), logits.new_empty(shape)
        ops.beam_candidates(logits, step.num_candidates, tokens, logprobs)
        return tokens, logprobs
