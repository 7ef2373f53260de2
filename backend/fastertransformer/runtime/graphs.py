# SPDX-License-Identifier: BSD-3-Clause
"""Steps of a decoder as CUDA graphs: one launch by the host for all kernels of a step, sampling included.

A graph is captured for a number of tokens and of sequences (its bucket) and for what sampling needs:
everything, candidates of beams included, or, of decode steps, nothing; where logits of a decode step are
wanted, everything and them, once that has come. A smaller batch is filled up with what belongs to nobody.
"""

from collections.abc import Callable

from torch import Tensor

from ..engine.batch import Batch
from .buckets import Bucket, decode_buckets, first_that_holds
from .captures import Captures
from .decode_inputs import DecodeInputs
from .device_batch import CacheLayout, DeviceBatch, Limits, device_batch
from .samples import Samples
from .sampling_table import Needs
from .step_inputs import StepInputs
from .transfer import to_device

_MOST_CANDIDATES = 256
"""A beam with more of them runs without graphs."""

_PLAIN = Needs(processing=False, drawing=False, logprobs=False)
_EVERYTHING = Needs.everything()

Step = Callable[[DeviceBatch, Needs], Samples]


class StepGraphs:
    """Captures and replays `step` for decode steps, in which every sequence computes one token and samples,
    and for others of few tokens.

    Args:
        prompts: the sizes of those others. max_num_seqs: of a decode step.
        workspace: of the attention kernels. max_model_len: the longest sequence that can come.
        max_encoder_len: the longest input of the encoder; 0 where there is none.
        vocab_size: there are no more candidates.
        has_ia3: the model has tasks.
    """

    def __init__(
        self,
        step: Step,
        prompts: list[Bucket],
        max_num_seqs: int,
        max_model_len: int,
        max_encoder_len: int,
        vocab_size: int,
        layout: CacheLayout,
        workspace: Tensor,
        has_ia3: bool,
    ) -> None:
        self._step = step
        self._prompts = prompts
        self._decodes = decode_buckets(max_num_seqs)
        self._max_candidates = min(_MOST_CANDIDATES, vocab_size)
        self._max_model_len = max_model_len
        self._max_encoder_len = max_encoder_len
        self._layout = layout
        self._workspace = workspace
        self._widths = -(-max_model_len // layout.block_size), -(-max_encoder_len // layout.block_size)
        self._has_ia3 = has_ia3
        self._inputs = {bucket: self._make_inputs(bucket) for bucket in (*prompts, *self._decodes)}
        self._captures = Captures(self._lay_out)

    def capture_all(self, progress: Callable[[int, int], None]) -> None:
        """As `Captures` does: for every bucket and all that sampling needs but logits."""
        keys = [(bucket, _EVERYTHING) for bucket in reversed(self._prompts)]
        keys += [(bucket, needs) for bucket in reversed(self._decodes) for needs in (_PLAIN, _EVERYTHING)]
        self._captures.capture_all(keys, progress)

    def clear(self) -> None:
        """As `Captures` does."""
        self._captures.clear()

    def bucket_of(self, batch: Batch) -> Bucket | None:
        """Whose graphs the step is for; None: it has more tokens, or more in it than tokens of the vocabulary
        that are computed and drawn."""
        is_plain = batch.embeddings is None and not (batch.contexts or batch.context_logits)
        has_room = batch.beams is None or batch.beams.num_candidates <= self._max_candidates
        if not (is_plain and has_room):
            return None
        tokens, sequences = batch.num_tokens, len(batch.slots)
        if len(batch.sample_rows) == sequences == tokens:
            return first_that_holds(self._decodes, tokens, sequences)
        # Sequences that forget come in pieces; and logits would take a graph more for every size of prompts.
        if batch.memory_blocks is not None or len(batch.logit_rows):
            return None
        return first_that_holds(self._prompts, tokens, sequences)

    def replay(self, bucket: Bucket, batch: Batch, needs: Needs) -> Samples:
        """The step of a batch of that bucket; results of its own rows, valid until the next replay."""
        is_least = needs == _PLAIN and bucket.is_decode
        key = bucket, needs if is_least else _EVERYTHING._replace(logits=needs.logits)
        inputs = self._inputs[bucket].fill(batch)
        samples = self._captures.launch(key, lambda memory: to_device([inputs], memory.device, memory))
        return samples.of(batch)

    def _make_inputs(self, bucket: Bucket) -> StepInputs:
        kind = DecodeInputs if bucket.is_decode else StepInputs
        return kind(bucket, self._layout, *self._widths, self._has_ia3)

    def _lay_out(self, key: tuple[Bucket, Needs]) -> tuple[Tensor, Callable[[], Samples]]:
        bucket, needs = key
        nobody = self._make_inputs(bucket)
        memory = to_device([nobody.packed], self._workspace.device)
        longest = bucket.max_seqlen_q, self._max_model_len, self._max_encoder_len
        step = device_batch(nobody.arrays, memory, self._workspace, Limits(*longest, self._max_candidates))
        return memory, lambda: self._step(step, needs)
