# SPDX-License-Identifier: BSD-3-Clause
"""State and output tensors of one request in FasterTransformer's decoder-only contract."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..call import Row
from ..protocol import Array, Output, compute_outputs


class CoreCall:
    """B rows in arrays that grow token by token, so that any response is a copy of them.

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
        self.prompt_lens = np.array([len(prompt) for prompt in prompts])
        self.generated = np.zeros(len(rows), np.int64)
        self.logprobs = np.zeros((len(rows), 1, longest), np.float32)
        self.output_ids = np.empty((len(rows), 1, padded_len + longest), np.int64)
        for line, prompt, fill_id in zip(self.output_ids[:, 0], prompts, fill_ids, strict=True):
            line[:] = fill_id
            line[: len(prompt)] = prompt

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.rows[0].request.sampling.logprobs)

    def advance(self) -> Sequence[int]:
        for index, row in enumerate(self.rows):
            begin, known, now = self.prompt_lens[index], self.generated[index], len(row.tokens)
            self.output_ids[index, 0, begin + known : begin + now] = row.tokens[known:]
            self.logprobs[index, 0, known : len(row.logprobs)] = row.logprobs[known:]
            self.generated[index] = now
        return ()

    @property
    def has_news(self) -> bool:
        return True

    def take_outputs(self) -> dict[str, Array]:
        return compute_outputs(self.output_table, self.output_types, self)

    def is_finished(self) -> Array:
        return np.array([row.finish_reason is not None for row in self.rows])


def _per_row(compute: Callable[[CoreCall], Array]) -> Callable[[CoreCall], Array]:
    """[B] -> [B, beam = 1]"""
    return lambda call: compute(call)[:, None]


def _if_asked(compute: Callable[[CoreCall], Array]) -> Callable[[CoreCall], Array | None]:
    return lambda call: compute(call) if call.wants_logprobs else None


def _never(_call: CoreCall) -> None:
    return None


_COMMON: tuple[Output[CoreCall], ...] = (
    Output("output_ids", "TYPE_UINT32", (-1, -1), lambda call: call.output_ids),
    Output("cum_log_probs", "TYPE_FP32", (-1,), _if_asked(lambda call: call.logprobs.sum(-1))),
    Output("output_log_probs", "TYPE_FP32", (-1, -1), _if_asked(lambda call: call.logprobs)),
    Output("is_finished", "TYPE_BOOL", (-1,), _per_row(CoreCall.is_finished)),
)
GPT_OUTPUTS: tuple[Output[CoreCall], ...] = (
    *_COMMON,
    Output("sequence_length", "TYPE_UINT32", (-1,), _per_row(lambda call: call.padded_len + call.generated)),
    Output("response_input_lengths", "TYPE_INT32", (-1,), _per_row(lambda call: call.prompt_lens)),
    Output("context_embeddings", "TYPE_FP32", (-1, -1), _never),  # the input that asks for it is refused
)
LLAMA_OUTPUTS: tuple[Output[CoreCall], ...] = (
    *_COMMON,
    Output("sequence_length", "TYPE_UINT32", (-1,), _per_row(lambda call: call.generated)),
    Output("input_sequence_lengths", "TYPE_UINT32", (-1,), _per_row(lambda call: call.prompt_lens)),
)
