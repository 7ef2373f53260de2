# SPDX-License-Identifier: BSD-3-Clause
"""What crosses pipeline stages: hidden states forward, sampled tokens from the last stage back to rank 0."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]
Samples = tuple[npt.NDArray[np.int32], Floats, npt.NDArray[np.float64], Floats]
"""Tokens [S], their log-probabilities [S], sums of hidden states [C, H], and logits [L, V]."""


class Pipeline(Protocol):
    """One rank's neighbours in the pipeline."""

    def send_hidden(self, hidden: Tensor) -> None:
        """To the same tensor-parallel rank of the next stage."""
        ...

    def receive_hidden(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor: ...

    def return_samples(self, tokens: Tensor, logprobs: Tensor, contexts: Tensor, logits: Tensor) -> None:
        """From the last stage to rank 0. All tensor-parallel ranks drew the same; one of them sends.

        Args: tokens, logprobs: [S] int32 and float32. contexts: [C, H] float64. logits: [L, V] float32.
        """
        ...

    def receive_samples(
        self, num_samples: int, contexts: tuple[int, int], logits: tuple[int, int]
    ) -> Samples:
        """Args: contexts: C and H. logits: L and V."""
        ...


class OneStage:
    """A pipeline of one stage: nothing travels."""

    def send_hidden(self, hidden: Tensor) -> None:
        raise AssertionError("a single stage has no next one")

    def receive_hidden(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        raise AssertionError("a single stage has no previous one")

    def return_samples(self, tokens: Tensor, logprobs: Tensor, contexts: Tensor, logits: Tensor) -> None:
        """They are where they are needed."""

    def receive_samples(
        self, num_samples: int, contexts: tuple[int, int], logits: tuple[int, int]
    ) -> Samples:
        raise AssertionError("a single stage samples itself")
