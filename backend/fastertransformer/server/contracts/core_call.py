# SPDX-License-Identifier: BSD-3-Clause
"""State and output tensors of one request in FasterTransformer's decoder-only contract."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..call import Row
from ..protocol import Array, Output, compute_outputs

_NOT_FOUND = -1e20
"""Score of beams that do not exist, as FasterTransformer began with it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the tensors of the responses to one request look like."""

    table: "Sequence[Output[CoreCall]]"
    types: Mapping[str, type]
    """Numpy types of the declared outputs."""
    streams: bool
    """A response after every step."""
    counts_prompt: bool = True
    """Whether `sequence_length` counts the prompt, padding included."""
    includes_prompt: bool = True
    """Whether `output_ids` of TensorRT-LLM's contract begin with the prompt."""
    vocab_size: int = 0
    wants: frozenset[str] = frozenset()
    """Names of the outputs that are given only where the request asks for them, and does."""


class CoreCall:
    """B * N sequences in arrays that grow token by token, so that any response is a copy of them.

    In a beam search of width W each of them is W lines of the arrays, else one.

    Args:
        rows: N samples of the client's first row, N of its second, ...
        prompts: what the client sent, without the start id that an empty prompt is given.
        padded_len: width of the client's input_ids.
        fill_ids: what follows the last token of each of `rows`.
        num_samples: N, which takes the place of FasterTransformer's beams in the outputs; in a search N * W.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        prompts: Sequence[Sequence[int]],
        padded_len: int,
        fill_ids: Sequence[int],
        shape: Shape,
        num_samples: int = 1,
    ) -> None:
        longest = max(row.request.sampling.max_tokens for row in rows)
        self.rows = rows
        self.shape = shape
        self.padded_len = padded_len
        width = rows[0].request.sampling.beam_width
        count = len(rows) * width
        self.fill_ids = fill_ids
        self.batch = len(rows) // num_samples
        self.num_samples = num_samples * width
        self.prompt_lens = np.repeat([len(prompt) for prompt in prompts], width)
        self.generated = np.zeros(count, np.int64)
        self.sent = np.zeros(count, np.int64)
        """New tokens that responses have covered; none of beams, which may become others."""
        self.cum_logprobs = np.zeros(count, np.float64)
        """In double precision: in single, the last digits would tell how many tokens came at a time."""
        self.logprobs = np.zeros((count, longest), np.float32)
        self.output_ids = np.empty((count, padded_len + longest), np.int64)
        lines = self.output_ids.reshape(len(rows), width, -1)
        for beams, prompt, fill_id in zip(lines, prompts, fill_ids, strict=True):
            beams[:] = fill_id
            beams[:, : len(prompt)] = prompt

    @property
    def streams(self) -> bool:
        return self.shape.streams

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.rows[0].request.sampling.logprobs)

    def advance(self) -> Sequence[int]:
        for index, row in enumerate(self.rows):
            if row.request.sampling.beam_width > 1:
                self._replace(index, row)
                continue
            begin, known, now = self.prompt_lens[index], self.generated[index], len(row.tokens)
            self.output_ids[index, begin + known : begin + now] = row.tokens[known:]
            self.logprobs[index, known : len(row.logprobs)] = row.logprobs[known:]
            self.cum_logprobs[index] += sum(row.logprobs[known:])
            self.generated[index] = now
        return ()

    def _replace(self, index: int, row: Row) -> None:
        """Beams may become others from their first token on. What was not found has no token."""
        first, width = index * row.request.sampling.beam_width, row.request.sampling.beam_width
        own, begin = slice(first, first + width), self.prompt_lens[first]
        self.output_ids[own, begin:] = self.fill_ids[index]
        self.logprobs[own], self.generated[own], self.cum_logprobs[own] = 0, 0, _NOT_FOUND
        for line, beam in enumerate(row.beams, first):
            count = len(beam.tokens)
            self.output_ids[line, begin : begin + count] = beam.tokens
            self.logprobs[line, :count] = beam.logprobs
            self.generated[line], self.cum_logprobs[line] = count, beam.cum_logprob

    @property
    def has_news(self) -> bool:
        return True

    def take_outputs(self) -> dict[str, Array]:
        outputs = compute_outputs(self.shape.table, self.shape.types, self)
        if self.rows[0].request.sampling.beam_width == 1:
            self.sent = self.generated.copy()
        if "context_logits" in outputs:
            for row in self.rows:
                row.context_logits = b""
        return outputs

    def is_finished(self) -> Array:
        finished = [row.finish_reason is not None for row in self.rows]
        return np.repeat(finished, len(self.generated) // len(self.rows))

    def sequence_lengths(self) -> Array:
        return self.generated + self.padded_len * self.shape.counts_prompt


def samples(compute: Callable[[CoreCall], Array]) -> Callable[[CoreCall], Array]:
    """[B * N, ...] -> [B, N, ...]"""

    def apart(call: CoreCall) -> Array:
        together = compute(call)
        return together.reshape(call.batch, call.num_samples, *together.shape[1:])

    return apart


def if_asked(compute: Callable[[CoreCall], Array]) -> Callable[[CoreCall], Array | None]:
    return lambda call: samples(compute)(call) if call.wants_logprobs else None


def _contexts(call: CoreCall) -> Array | None:
    """[B, N, H], equal for the samples of a row; from the step on that has computed the prompts."""
    firsts = call.rows[:: len(call.rows) // call.batch]
    if not all(row.context for row in firsts):
        return None
    sums = np.stack([np.frombuffer(row.context, np.float32) for row in firsts])
    return sums[:, None].repeat(call.num_samples, 1)


def never(_call: object) -> None:
    return None


OUTPUTS: tuple[Output[CoreCall], ...] = (
    Output("output_ids", "TYPE_UINT32", (-1, -1), samples(lambda call: call.output_ids)),
    Output("sequence_length", "TYPE_UINT32", (-1,), samples(CoreCall.sequence_lengths)),
    Output("response_input_lengths", "TYPE_INT32", (-1,), samples(lambda call: call.prompt_lens)),
    Output("input_sequence_lengths", "TYPE_UINT32", (-1,), samples(lambda call: call.prompt_lens)),
    Output("output_lengths", "TYPE_UINT32", (-1,), samples(lambda call: call.prompt_lens + call.generated)),
    Output("cum_log_probs", "TYPE_FP32", (-1,), if_asked(lambda call: call.cum_logprobs)),
    Output("output_log_probs", "TYPE_FP32", (-1, -1), if_asked(lambda call: call.logprobs)),
    Output("is_finished", "TYPE_BOOL", (-1,), samples(CoreCall.is_finished)),
    Output("context_embeddings", "TYPE_FP32", (-1, -1), _contexts),
)
