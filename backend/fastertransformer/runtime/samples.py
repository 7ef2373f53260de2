# SPDX-License-Identifier: BSD-3-Clause
"""What a step brings back from its last stage: on the device, packed, and as the scheduler takes it."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..engine.batch import Batch, FloatArray, Int32Array, StepResult


@dataclass(frozen=True, slots=True)
class Samples:
    """Of the S rows of a step that sample; on the device."""

    tokens: Tensor
    """[S] int32"""
    logprobs: Tensor
    """[S] float32, 0 where not asked for"""
    candidates: tuple[Tensor, Tensor] | None = None
    """Tokens [S, K] int32 and log-probabilities [S, K] float32, which count for the rows of beams; None where
    there are none."""
    logits: Tensor | None = None
    """[S, V] float32 as the sampler got them, for those that want them; None where nobody does."""

    def of(self, batch: Batch) -> "Samples":
        """The part that a batch asked for, of those of a larger step; without candidates, with the rows of
        nobody behind it."""
        if self.candidates is None:
            return self
        rows = len(batch.sample_rows)
        if batch.beams is None:
            return Samples(self.tokens[:rows], self.logprobs[:rows], logits=self.logits)
        tokens, logprobs = (values[:rows, : batch.beams.num_candidates] for values in self.candidates)
        return Samples(self.tokens[:rows], self.logprobs[:rows], (tokens, logprobs), self.logits)

    def packed(self) -> tuple[Tensor, Tensor]:
        """Tokens and log-probabilities with the candidates behind them, [S + S * K] each."""
        if self.candidates is None:
            return self.tokens, self.logprobs
        tokens, logprobs = self.candidates
        return torch.cat((self.tokens, tokens.flatten())), torch.cat((self.logprobs, logprobs.flatten()))


def num_samples(batch: Batch) -> int:
    """Numbers that a step gives back: S + S * K."""
    candidates = 0 if batch.beams is None else batch.beams.num_candidates
    return len(batch.sample_rows) * (1 + candidates)


def num_logits(batch: Batch) -> int:
    """Rows of logits that a step gives back."""
    return sum(end - begin for begin, end in batch.context_logits) + len(batch.logit_rows)


def unpack(
    batch: Batch,
    tokens: Int32Array,
    logprobs: FloatArray,
    contexts: npt.NDArray[np.float64] | None,
    logits: FloatArray,
) -> StepResult:
    """What `Samples.packed` has packed, and logits: those of prompts first."""
    of_prompts, end = [], 0
    for first, last in batch.context_logits:
        begin, end = end, end + last - first
        of_prompts.append(logits[begin:end])
    count = len(batch.sample_rows)
    result = StepResult(
        tokens[:count],
        logprobs[:count],
        contexts=contexts,
        context_logits=tuple(of_prompts),
        logits=logits[end:],
    )
    if batch.beams is None:
        return result
    shape, rows = (count, batch.beams.num_candidates), batch.beams.rows
    return replace(
        result,
        candidate_tokens=tokens[count:].reshape(shape)[rows],
        candidate_logprobs=logprobs[count:].reshape(shape)[rows],
    )
