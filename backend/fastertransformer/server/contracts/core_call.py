# SPDX-License-Identifier: BSD-3-Clause
"""State and output tensors of one request in FasterTransformer's decoder-only contract."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..call import Row
from ..protocol import Array, Output, compute_outputs


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
    wants: frozenset[str] = frozenset()
    """Names of the outputs that are given only where the request asks for them, and does."""


class CoreCall:
    """B * N sequences in arrays that grow token by token, so that any response is a copy of them.

    Args:
        rows: N samples of the client's first row, N of its second, ...
        prompts: what the client sent, without the start id that an empty prompt is given.
        padded_len: width of the client's input_ids.
        fill_ids: what follows the last token of each of `rows`.
        num_samples: N, which takes the place of FasterTransformer's beams in the outputs.
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
        self.num_samples = num_samples
        self.prompt_lens = np.array([len(prompt) for prompt in prompts])
        self.generated = np.zeros(len(rows), np.int64)
        self.sent = np.zeros(len(rows), np.int64)
        """New tokens that responses have covered."""
        self.logprobs = np.zeros((len(rows), longest), np.float32)
        self.output_ids = np.empty((len(rows), padded_len + longest), np.int64)
        for line, prompt, fill_id in zip(self.output_ids, prompts, fill_ids, strict=True):
            line[:] = fill_id
            line[: len(prompt)] = prompt

    @property
    def streams(self) -> bool:
        return self.shape.streams

    @property
    def wants_logprobs(self) -> bool:
        return self.rows[0].request.sampling.logprobs

    def advance(self) -> Sequence[int]:
        for index, row in enumerate(self.rows):
            begin, known, now = self.prompt_lens[index], self.generated[index], len(row.tokens)
            self.output_ids[index, begin + known : begin + now] = row.tokens[known:]
            self.logprobs[index, known : len(row.logprobs)] = row.logprobs[known:]
            self.generated[index] = now
        return ()

    @property
    def has_news(self) -> bool:
        return True

    def take_outputs(self) -> dict[str, Array]:
        outputs = compute_outputs(self.shape.table, self.shape.types, self)
        self.sent = self.generated.copy()
        return outputs

    def is_finished(self) -> Array:
        return np.array([row.finish_reason is not None for row in self.rows])

    def sequence_lengths(self) -> Array:
        return self.generated + self.padded_len * self.shape.counts_prompt


def samples(compute: Callable[[CoreCall], Array]) -> Callable[[CoreCall], Array]:
    """[B * N, ...] -> [B, N, ...]"""

    def apart(call: CoreCall) -> Array:
        together = compute(call)
        batch = len(call.rows) // call.num_samples
        return together.reshape(batch, call.num_samples, *together.shape[1:])

    return apart


def if_asked(compute: Callable[[CoreCall], Array]) -> Callable[[CoreCall], Array | None]:
    return lambda call: samples(compute)(call) if call.wants_logprobs else None


def _contexts(call: CoreCall) -> Array | None:
    """[B, N, H], equal for the samples of a row; from the step on that has computed the prompts."""
    firsts = call.rows[:: call.num_samples]
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
    Output("cum_log_probs", "TYPE_FP32", (-1,), if_asked(lambda call: call.logprobs.sum(-1))),
    Output("output_log_probs", "TYPE_FP32", (-1, -1), if_asked(lambda call: call.logprobs)),
    Output("is_finished", "TYPE_BOOL", (-1,), samples(CoreCall.is_finished)),
    Output("context_embeddings", "TYPE_FP32", (-1, -1), _contexts),
)
