# SPDX-License-Identifier: BSD-3-Clause
"""State and output tensors of one request in FasterTransformer's decoder-only contract."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...messages import Beam
from ..call import Row
from ..protocol import Array, Output, compute_outputs

_NOT_FOUND = -1e20
"""Score of beams that do not exist, as FasterTransformer began with it."""


class CoreCall:
    """B rows of W beams in arrays that grow token by token, so that any response is a copy of them.

    Without a beam search W is 1.

    Args:
        prompts: what the client sent, without the start id that an empty prompt is given.
        padded_len: width of the client's input_ids.
        fill_ids: [B] what follows the last token of a row.
    """

    def __init__(
        self, rows: Sequence[Row], prompts: Sequence[Sequence[int]], padded_len: int, fill_ids: Sequence[int]
    ) -> None:
        longest = max(row.request.sampling.max_tokens for row in rows)
        self.rows = rows
        self.streams = False
        self.output_table: Sequence[Output[CoreCall]] = GPT_OUTPUTS
        self.output_types: Mapping[str, type] = {}
        self.padded_len = padded_len
        self.fill_ids = fill_ids
        shape = len(rows), rows[0].request.sampling.beam_width
        self.prompt_lens = np.repeat([[len(prompt)] for prompt in prompts], shape[1], axis=1)
        self.generated = np.zeros(shape, np.int64)
        self.cum_logprobs = np.zeros(shape, np.float32)
        self.logprobs = np.zeros((*shape, longest), np.float32)
        self.output_ids = np.empty((*shape, padded_len + longest), np.int64)
        for lines, prompt, fill_id in zip(self.output_ids, prompts, fill_ids, strict=True):
            lines[:] = fill_id
            lines[:, : len(prompt)] = prompt

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.rows[0].request.sampling.logprobs)

    def advance(self) -> Sequence[int]:
        for index, row in enumerate(self.rows):
            if row.request.sampling.beam_width > 1:
                self._replace(index, row.beams)
                continue
            begin, known, now = self.prompt_lens[index, 0], self.generated[index, 0], len(row.tokens)
            self.output_ids[index, 0, begin + known : begin + now] = row.tokens[known:]
            self.logprobs[index, 0, known : len(row.logprobs)] = row.logprobs[known:]
            self.cum_logprobs[index, 0] += sum(row.logprobs[known:])
            self.generated[index] = now
        return ()

    def _replace(self, index: int, beams: Sequence[Beam]) -> None:
        """Beams may become others from their first token on. What was not found has no token."""
        self.output_ids[index, :, self.prompt_lens[index, 0] :] = self.fill_ids[index]
        self.logprobs[index], self.generated[index], self.cum_logprobs[index] = 0, 0, _NOT_FOUND
        for place, beam in enumerate(beams):
            begin, count = self.prompt_lens[index, 0], len(beam.tokens)
            self.output_ids[index, place, begin : begin + count] = beam.tokens
            self.logprobs[index, place, :count] = beam.logprobs
            self.generated[index, place], self.cum_logprobs[index, place] = count, beam.cum_logprob

    @property
    def has_news(self) -> bool:
        return True

    def take_outputs(self) -> dict[str, Array]:
        return compute_outputs(self.output_table, self.output_types, self)

    def is_finished(self) -> Array:
        """[B, W]"""
        finished = [[row.finish_reason is not None] for row in self.rows]
        return np.repeat(finished, self.generated.shape[1], axis=1)


def _if_asked(compute: Callable[[CoreCall], Array]) -> Callable[[CoreCall], Array | None]:
    return lambda call: compute(call) if call.wants_logprobs else None


def _never(_call: CoreCall) -> None:
    return None


_COMMON: tuple[Output[CoreCall], ...] = (
    Output("output_ids", "TYPE_UINT32", (-1, -1), lambda call: call.output_ids),
    Output("cum_log_probs", "TYPE_FP32", (-1,), _if_asked(lambda call: call.cum_logprobs)),
    Output("output_log_probs", "TYPE_FP32", (-1, -1), _if_asked(lambda call: call.logprobs)),
    Output("is_finished", "TYPE_BOOL", (-1,), CoreCall.is_finished),
)
GPT_OUTPUTS: tuple[Output[CoreCall], ...] = (
    *_COMMON,
    Output("sequence_length", "TYPE_UINT32", (-1,), lambda call: call.padded_len + call.generated),
    Output("response_input_lengths", "TYPE_INT32", (-1,), lambda call: call.prompt_lens),
    Output("context_embeddings", "TYPE_FP32", (-1, -1), _never),  # the input that asks for it is refused
)
LLAMA_OUTPUTS: tuple[Output[CoreCall], ...] = (
    *_COMMON,
    Output("sequence_length", "TYPE_UINT32", (-1,), lambda call: call.generated),
    Output("input_sequence_lengths", "TYPE_UINT32", (-1,), lambda call: call.prompt_lens),
)
