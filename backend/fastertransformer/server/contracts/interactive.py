# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's interactive generation: the decoder-only contract for the turns of a conversation.

Every tensor has one dimension more in front, of size 1: [1, B, ...]. A turn brings its new tokens along and
gets all of the conversation back.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from ...errors import InvalidRequest
from ...messages import Session, token_ids
from ..call import Row
from ..conversations import Conversation, Turn
from ..protocol import Array, Input, declared, first_row, needed, per_row, read_rows
from .core import CoreContract
from .core_call import CoreCall

SESSION_INPUTS = (Input("session_len", "TYPE_UINT32", (1,), first_row, "limit", 0),)
_FIRST_TURN_INPUTS = (*SESSION_INPUTS, Input("memory_len", "TYPE_UINT32", (1,), first_row, "memory_len", 0))
_NAMES = frozenset(tensor.name for tensor in SESSION_INPUTS)


@dataclass(frozen=True, slots=True)
class InteractiveCall:
    """A call of the decoder-only contract whose outputs have one dimension more."""

    core: CoreCall

    @property
    def rows(self) -> Sequence[Row]:
        return self.core.rows

    @property
    def streams(self) -> bool:
        return self.core.streams

    def advance(self) -> Sequence[int]:
        return self.core.advance()

    @property
    def has_news(self) -> bool:
        return self.core.has_news

    def take_outputs(self) -> dict[str, Array]:
        return {name: array[np.newaxis] for name, array in self.core.take_outputs().items()}


class InteractiveContract:
    """Reads turns. Raises ModelLoadError when config.pbtxt declares other tensors."""

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        core = [entry for entry in model_config["input"] if entry["name"] not in _NAMES]
        own = [entry for entry in model_config["input"] if entry["name"] in _NAMES]
        self._core = CoreContract({**model_config, "input": core})
        self.input_types = {**self._core.input_types, **declared(own, SESSION_INPUTS)}
        self._session_ids: Iterator[int] = itertools.count()

    def start(self, turn: Turn) -> Conversation:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        tensors = _rows_of(turn.tensors)
        batch = len(needed(tensors, "input_ids"))
        values = read_rows(_FIRST_TURN_INPUTS, tensors, batch)[0]
        limit = min(values["limit"] or turn.info.max_model_len, turn.info.max_model_len)
        return Conversation(
            session_ids=[next(self._session_ids) for _ in range(batch)],
            limit=limit,
            memory_len=values["memory_len"] if values["memory_len"] < limit else 0,
            tokens=[()] * batch,
            num_hidden=[0] * batch,
        )

    def open(self, turn: Turn, conversation: Conversation) -> InteractiveCall:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        tensors = {name: rows for name, rows in _rows_of(turn.tensors).items() if name not in _NAMES}
        num_rows = len(needed(tensors, "input_ids"))
        if num_rows != len(conversation.tokens):
            raise InvalidRequest(
                f"input_ids has {num_rows} rows; the sequence began with {len(conversation.tokens)}"
            )
        call = self._core.open(_continued(tensors, conversation), turn.info)
        _refuse_what_has_no_turns(call)
        if turn.starts:
            lengths = zip(call.rows, call.prompt_lens.tolist(), strict=True)
            conversation.num_hidden = [len(row.request.prompt) - length for row, length in lengths]
        for index, row in enumerate(call.rows):
            self._join(row, conversation, index, turn)
        return InteractiveCall(call)

    def _join(self, row: Row, conversation: Conversation, index: int, turn: Turn) -> None:
        """Makes the request of a row one of its session."""
        known = conversation.tokens[index]
        hidden = known[: conversation.num_hidden[index]]
        session = Session(conversation.session_ids[index], is_last=turn.ends)
        prompt = token_ids(hidden) + row.request.prompt
        row.request = replace(row.request, prompt=prompt, session=session)
        new, wanted = len(row.request.prompt) - len(known), row.request.sampling.max_tokens
        if len(known) + new + wanted > conversation.limit:
            raise InvalidRequest(
                f"session_len is {conversation.limit}, but the sequence has {len(known)} tokens, input_ids"
                f" {new} and request_output_len is {wanted}: together {len(known) + new + wanted}"
            )


def _refuse_what_has_no_turns(call: CoreCall) -> None:
    """As the old service did: a later turn would not know what stood in front of the first."""
    width = call.rows[0].request.sampling.beam_width
    if width > 1:
        raise InvalidRequest(f"beam_width is {width}; allowed is 1 in a sequence")
    if call.num_samples > 1:
        raise InvalidRequest(f"num_return_sequences is {call.num_samples}; allowed is 1 in a sequence")
    if any(row.request.embeddings or row.request.prompt_task >= 0 for row in call.rows):
        raise InvalidRequest(
            "request_prompt_embedding and prompt_learning_task_name_ids are not allowed in a sequence"
        )


def _rows_of(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """[1, B, ...] -> [B, ...]"""
    for name, array in tensors.items():
        least = 3 if name == "input_ids" else 2
        if array.ndim < least or 0 in array.shape[:2]:
            allowed = "[1, batch, length]" if name == "input_ids" else "[1, batch, ...]"
            raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is {allowed}")
    return {name: array[0] for name, array in tensors.items()}


def _continued(tensors: Mapping[str, Array], conversation: Conversation) -> dict[str, Array]:
    """The tensors of a request that brings along what was said before."""
    ids = tensors["input_ids"]
    batch, width = ids.shape
    lengths = per_row("input_lengths", needed(tensors, "input_lengths"), batch)
    said = [row[hidden:] for row, hidden in zip(conversation.tokens, conversation.num_hidden, strict=True)]
    whole = np.zeros((batch, max(map(len, said)) + width), ids.dtype)
    for line, before, new, length in zip(whole, said, ids, lengths, strict=True):
        if not 0 <= length <= width:
            raise InvalidRequest(
                f"input_lengths is {length}; allowed is [0, {width}], the width of input_ids"
            )
        line[: len(before) + length] = [*before, *new[:length]]
    totals = [len(before) + length for before, length in zip(said, lengths, strict=True)]
    return {
        **tensors,
        "input_ids": whole,
        "input_lengths": np.array(totals),
        "memory_len": np.array([conversation.memory_len]),  # what the first turn said
    }
