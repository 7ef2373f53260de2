# SPDX-License-Identifier: BSD-3-Clause
"""Prompt learning: what a row's tensors put in front of its ids, or in their place.

In the engine a row of a table is a token: -1 - r stands for row r.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import InvalidRequest
from ...messages import EngineInfo, PromptKind, TokenIds, token_ids
from ..protocol import Array, embeddings

_REQUEST_TENSORS = {
    "prompt_embedding": "request_prompt_embedding",
    "prompt_rows": "request_prompt_lengths",
    "prompt_type": "request_prompt_type",
}
_TASK = "prompt_learning_task_name_ids"
_SOFT, _PREFIX, _VIRTUAL = (kind.value for kind in (PromptKind.SOFT, PromptKind.PREFIX, PromptKind.VIRTUAL))


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row's prompt."""

    visible: tuple[int, ...]
    """Ids of the client that are part of its output: in FasterTransformer's contract all but virtual ones."""
    tokens: tuple[int, ...]
    """What the engine computes."""
    embeddings: bytes = b""
    task: int = -1


def matrix_rows(name: str, array: Array, batch: int) -> Sequence[Any]:
    """[B, rows, width] of numbers that every data type holds -> B arrays float32."""
    if array.ndim != 3 or array.shape[0] != batch:
        raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is [{batch}, rows, width]")
    return list(embeddings(name, array))


def read_prompt(values: Mapping[str, Any], ids: tuple[int, ...], info: EngineInfo) -> Prompt:
    """The prompt of one row; the request's own embeddings come before a task's.

    (contract: docs/compatibility.md)

    Args:
        values: `prompt_embedding`, `prompt_rows`, `prompt_type` and `prompt_task`, where they were sent;
            of TensorRT-LLM's contract `prompt_table` and `prompt_vocab_size`.
        ids: the client's, of which there is at least one.

    Raises:
        InvalidRequest: names the tensor, what came and what is allowed.
    """
    sent = [name for field, name in _REQUEST_TENSORS.items() if values.get(field) is not None]
    table, task = values.get("prompt_table"), values.get("prompt_task")
    if table is None and not sent and task is None:
        return Prompt(ids, ids)
    _refuse_rows(ids, info)
    if table is not None:
        return _of_table(table, values["prompt_vocab_size"], ids, info)
    if sent:
        missing = [name for name in _REQUEST_TENSORS.values() if name not in sent]
        if missing:
            raise InvalidRequest(
                f"{sent[0]} was sent without {' and '.join(missing)}; they are needed together"
            )
        return _of_request(values, ids, info)
    return _of_task(values["prompt_task"], ids, info)


def _refuse_rows(ids: tuple[int, ...], info: EngineInfo) -> None:
    """To the engine a negative id is a row of the table, but no client may name one so."""
    lowest = min(ids, default=0)
    if lowest < 0:
        raise InvalidRequest(
            f"input_ids: token id {lowest} at position {ids.index(lowest)} is not in the vocabulary"
            f" [0, {info.encoder_vocab_size or info.vocab_size})"
        )


def packed_ids(name: str, ids: Sequence[int], vocab_size: int) -> TokenIds:
    """Raises: InvalidRequest: an id cannot travel. Whether the others are tokens is checked later."""
    try:
        return token_ids(ids)
    except struct.error:
        largest = max(ids)
        raise InvalidRequest(
            f"{name}: token id {largest} at position {ids.index(largest)} is not in the vocabulary"
            f" [0, {vocab_size})"
        ) from None


def _of_request(values: Mapping[str, Any], ids: tuple[int, ...], info: EngineInfo) -> Prompt:
    embedding, length, kind = (values[field] for field in _REQUEST_TENSORS)
    rows = _bytes_of(embedding, length, ("request_prompt_embedding", "request_prompt_lengths"), info)
    if kind == _SOFT:
        return Prompt(ids, _rows(length) + ids, rows)
    if kind == _VIRTUAL:
        return Prompt(*_virtual(ids, length, _start_of_virtual(info)), rows)
    raise InvalidRequest(
        f"request_prompt_type is {kind}; allowed are {_SOFT} (soft prompt) and {_VIRTUAL} (p-tuning or prompt"
        f" tuning); {_PREFIX} (prefix prompt) is for tasks of the checkpoint only"
    )


def _of_task(task: int, ids: tuple[int, ...], info: EngineInfo) -> Prompt:
    learning = info.prompt_learning
    if learning is None or learning.kind not in (PromptKind.PREFIX, PromptKind.VIRTUAL):
        raise InvalidRequest(
            f"{_TASK} is {task}, but the checkpoint has no tasks: its config.ini needs prompt_learning_type"
            f" {_PREFIX} (prefix prompt) or {_VIRTUAL} (p-tuning or prompt tuning)"
        )
    if not 0 <= task < len(learning.task_names):
        names = ", ".join(f"{number} ({name})" for number, name in enumerate(learning.task_names))
        raise InvalidRequest(f"{_TASK} is {task}; allowed are {names}")
    length = learning.lengths[task]
    if learning.kind is PromptKind.PREFIX:
        return Prompt(ids, _rows(length) + ids, task=task)
    return Prompt(*_virtual(ids, length, _start_of_virtual(info)), task=task)


def _of_table(table: Array, size: int | None, ids: tuple[int, ...], info: EngineInfo) -> Prompt:
    """Ids behind the vocabulary are rows, and part of the output: clients cut it at the length they sent."""
    length = len(table) if size is None else size
    rows = _bytes_of(table, length, ("prompt_embedding_table", "prompt_vocab_size"), info)
    _, tokens = _virtual(ids, length, info.vocab_size)
    return Prompt(ids, tokens, rows)


def _bytes_of(table: Array, length: int, names: tuple[str, str], info: EngineInfo) -> bytes:
    """The first `length` rows. Raises: InvalidRequest: with the names of table and length."""
    if table.shape[1] != info.embedding_size:
        raise InvalidRequest(
            f"{names[0]} has rows of {table.shape[1]} values; allowed is {info.embedding_size}"
        )
    if not 0 <= length <= len(table):
        raise InvalidRequest(f"{names[1]} is {length}; allowed is [0, {len(table)}], the rows of {names[0]}")
    return table[:length].tobytes()


def _rows(length: int) -> tuple[int, ...]:
    """All rows of a table, in order."""
    return tuple(range(-1, -1 - length, -1))


def _start_of_virtual(info: EngineInfo) -> int:
    assert info.prompt_learning is not None
    return info.prompt_learning.start_id


def _virtual(ids: tuple[int, ...], length: int, start: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(ids that are words, all ids with rows in place of virtual ones)"""
    for position, token in enumerate(ids):
        if token >= start + length:
            raise InvalidRequest(
                f"input_ids: virtual id {token} at position {position}; the prompt's {length} rows are the"
                f" ids [{start}, {start + length})"
            )
    visible = tuple(token for token in ids if token < start)
    return visible, tuple(token if token < start else start - 1 - token for token in ids)
