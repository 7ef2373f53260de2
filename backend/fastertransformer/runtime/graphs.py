# SPDX-License-Identifier: BSD-3-Clause
"""Decode steps as CUDA graphs: one launch by the host for all kernels of a step, sampling included.

A graph is captured for a number of sequences (its bucket) and for what their sampling needs: nothing or
everything, candidates of beams included; where logits are wanted, for everything and them, once that has
come. A smaller batch is filled up with rows that belong to nobody.
"""

from bisect import bisect_left
from collections.abc import Callable

from torch import Tensor

from ..engine.batch import Batch
from .captures import Captures
from .decode_inputs import DecodeInputs
from .device_batch import CacheLayout, DeviceBatch, place
from .samples import Samples
from .sampling_table import Needs
from .transfer import to_device

_SMALL_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_BUCKET_STEP = 32

_MOST_CANDIDATES = 256
"""A beam with more of them runs without graphs."""

_PLAIN = Needs(processing=False, drawing=False, logprobs=False)
_KINDS = (_PLAIN, Needs.everything())

Step = Callable[[DeviceBatch, Needs], Samples]


def buckets(max_num_seqs: int) -> list[int]:
    """Batch sizes that get a graph, up to the largest that runs."""
    sizes = [*_SMALL_BUCKETS, *range(_SMALL_BUCKETS[-1] + _BUCKET_STEP, max_num_seqs, _BUCKET_STEP)]
    return [size for size in sizes if size < max_num_seqs] + [max_num_seqs]


class DecodeGraphs:
    """Captures and replays `step` for batches in which every sequence computes one token and samples.

    Args:
        workspace: of the attention kernels. max_model_len: the longest sequence that can come.
        max_encoder_len: the longest input of the encoder; 0 where there is none.
        vocab_size: there are no more candidates.
        has_ia3: the model has tasks.
    """

    def __init__(
        self,
        step: Step,
        max_num_seqs: int,
        max_model_len: int,
        max_encoder_len: int,
        vocab_size: int,
        layout: CacheLayout,
        workspace: Tensor,
        has_ia3: bool,
    ) -> None:
        self._step = step
        self._buckets = buckets(max_num_seqs)
        self._max_model_len = max_model_len
        self._max_encoder_len = max_encoder_len
        self._max_candidates = min(_MOST_CANDIDATES, vocab_size)
        self._layout = layout
        self._workspace = workspace
        widths = -(-max_model_len // layout.block_size), -(-max_encoder_len // layout.block_size)
        self._inputs = {size: DecodeInputs(size, layout, *widths, has_ia3) for size in self._buckets}
        self._captures = Captures(self._lay_out)

    def capture_all(self, progress: Callable[[int, int], None]) -> None:
        """As `Captures` does: for every number of sequences and all that sampling needs but logits."""
        keys = [(size, needs) for size in reversed(self._buckets) for needs in _KINDS]
        self._captures.capture_all(keys, progress)

    def clear(self) -> None:
        """As `Captures` does."""
        self._captures.clear()

    def fits(self, batch: Batch) -> bool:
        """Whether every sequence computes one token of the vocabulary and samples, and that is all."""
        is_plain = batch.embeddings is None and not (batch.contexts or batch.context_logits)
        if batch.beams is not None and batch.beams.num_candidates > self._max_candidates:
            return False
        return is_plain and len(batch.sample_rows) == len(batch.slots) == batch.num_tokens

    def replay(self, batch: Batch, needs: Needs) -> Samples:
        """The step of a batch that fits; results of its own rows, valid until the next replay."""
        size = self._buckets[bisect_left(self._buckets, len(batch.slots))]
        key = size, needs if needs == _PLAIN else Needs.everything()._replace(logits=needs.logits)
        inputs = self._inputs[size].fill(batch)
        samples = self._captures.launch(key, lambda memory: to_device([inputs], memory.device, memory))
        return samples.of(batch)

    def _lay_out(self, key: tuple[int, Needs]) -> tuple[Tensor, Callable[[], Samples]]:
        size, needs = key
        step, inputs = place(
            self._inputs[size].nobody,
            self._layout,
            self._workspace,
            self._max_model_len,
            self._max_encoder_len,
            self._max_candidates,
        )
        return inputs, lambda: self._step(step, needs)
