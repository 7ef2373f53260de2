# SPDX-License-Identifier: BSD-3-Clause
"""Contracts as tables: one row per Triton tensor, and the machinery that reads and checks by them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import InvalidRequest, ModelLoadError

MAX_UINT32 = 2**32 - 1
"""Numpy would make another number of what is larger."""

LARGEST_EMBEDDED = 65504.0
"""The largest number of float16. The squares of larger ones, which norms add up, may be none of float32."""

Array = npt.NDArray[Any]
Reader = Callable[[str, Array, int], Sequence[Any]]
"""(tensor name, array [B, ...], B) -> one value per row; raises InvalidRequest."""
State = TypeVar("State")

_INTEGERS = tuple(f"TYPE_{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
_KINDS = (_INTEGERS, ("TYPE_FP16", "TYPE_FP32", "TYPE_FP64"), ("TYPE_BOOL",), ("TYPE_STRING",))
_NUMPY_TYPES: dict[str, Any] = {
    "TYPE_BOOL": np.bool_,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
} | {name: np.dtype(name.removeprefix("TYPE_").lower()) for name in _INTEGERS}


@dataclass(frozen=True, slots=True)
class Input:
    """One input tensor."""

    name: str
    data_type: str
    """What the contract declares; config.pbtxt may declare another width of the same kind."""
    dims: tuple[int, ...]
    """Without the batch dimension; -1 is any size."""
    read: Reader
    field: str = ""
    """Key of the value in a row, mostly a field of SamplingParams; empty when the tensor is only checked."""
    default: Any = None
    optional: bool = True


@dataclass(frozen=True, slots=True)
class Output(Generic[State]):
    """One output tensor. `compute` gives None where the request did not ask for it."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    compute: Callable[[State], Array | None]


def per_row(name: str, array: Array, batch: int) -> Sequence[Any]:
    """[B], [B, 1], or one value for all rows; floats as the shortest decimals that mean them."""
    values = array.reshape(-1)
    if values.dtype in (np.float16, np.float32):
        values = values.astype(np.str_).astype(np.float64)
    if len(values) not in (1, batch):
        raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed are [{batch}, 1] and [{batch}]")
    return np.broadcast_to(values, batch).tolist()  # type: ignore[no-any-return]


def single_ids(name: str, array: Array, batch: int) -> Sequence[Any]:
    """A token id per row, for a field that holds several."""
    return [(token,) for token in per_row(name, array, batch)]


def first_row(name: str, array: Array, batch: int) -> Sequence[Any]:
    """Element 0 decides for the whole request."""
    return [per_row(name, array, batch)[0]] * batch


def token_rows(name: str, array: Array, _batch: int) -> Sequence[Any]:
    """[B, L] -> B arrays of L token ids."""
    if array.ndim != 2:
        raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is [batch, length]")
    return list(array)


def word_lists(name: str, array: Array, batch: int) -> Sequence[Any]:
    """FasterTransformer's [B, 2, L]: concatenated words, and their cumulative ends padded with -1."""
    if array.ndim != 3 or array.shape[1] != 2 or array.shape[0] not in (1, batch):
        raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is [{batch}, 2, length]")
    words = [_words(name, ids.tolist(), ends.tolist()) for ids, ends in array]
    return words if len(words) == batch else words * batch


def _words(name: str, ids: list[int], ends: list[int]) -> tuple[tuple[int, ...], ...]:
    used = ends[: ends.index(-1)] if -1 in ends else ends
    starts = [0, *used[:-1]]
    for start, end in zip(starts, used, strict=False):
        if not start < end <= len(ids):
            raise InvalidRequest(
                f"{name}: a word ends at {end} after one that ends at {start}; allowed are growing ends"
                f" up to the {len(ids)} ids of the row, then -1"
            )
    return tuple(tuple(ids[start:end]) for start, end in zip(starts, used, strict=False))


def bias_lists(name: str, array: Array, batch: int) -> Sequence[Any]:
    """[B, n, 2]: pairs of a token id and what is added to its logit; pairs with the id -1 only fill up."""
    if array.ndim != 3 or array.shape[2] != 2 or array.shape[0] not in (1, batch):
        raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is [{batch}, pairs, 2]")
    biases = [_biases(name, row) for row in array.tolist()]
    return biases if len(biases) == batch else biases * batch


def _biases(name: str, pairs: list[list[float]]) -> tuple[tuple[int, float], ...]:
    for token, _ in pairs:
        if not token.is_integer():
            raise InvalidRequest(f"{name}: token id {token} is not an integer; pairs are (token id, bias)")
    return tuple((int(token), bias) for token, bias in pairs if token != -1)


def only(allowed: Any, reason: str) -> Reader:
    """A reader for what is not served yet: refuses every value but `allowed`."""

    def read(name: str, array: Array, batch: int) -> Sequence[Any]:
        for value in per_row(name, array, batch):
            if value != allowed:
                raise InvalidRequest(f"{name} is {value}; allowed is {allowed}: {reason}")
        return [allowed] * batch

    return read


def refused(reason: str) -> Reader:
    """A reader for a tensor that may be declared but not sent."""

    def read(name: str, array: Array, _batch: int) -> Sequence[Any]:
        raise InvalidRequest(f"{name} was sent with shape {list(array.shape)}, but {reason}")

    return read


def embeddings(name: str, array: Array) -> Array:
    """A copy in float32.

    Raises:
        InvalidRequest: a number that some data type cannot hold, or has no room to compute with.
    """
    if array.size == 0 or (array.min() >= -LARGEST_EMBEDDED and array.max() <= LARGEST_EMBEDDED):
        return array.astype(np.float32)
    worst = array.flat[np.abs(array).argmax()]  # nan, if there is one
    raise InvalidRequest(
        f"{name} has the value {worst:g}; allowed is [-{LARGEST_EMBEDDED:g}, {LARGEST_EMBEDDED:g}]"
    )


def needed(tensors: Mapping[str, Array], name: str) -> Array:
    """The tensor of this name. Triton counts what a request brings, and looks at no names.

    Raises:
        InvalidRequest: it was not sent.
    """
    if name not in tensors:
        raise InvalidRequest(f"{name} was not sent; it is needed")
    return tensors[name]


def read_rows(table: Iterable[Input], tensors: Mapping[str, Array], batch: int) -> list[dict[str, Any]]:
    """The values of every row by `Input.field`, absent tensors as their defaults.

    Raises:
        InvalidRequest: names the tensor, what came and what is allowed.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(batch)]
    for tensor in table:
        array = tensors.get(tensor.name) if tensor.optional else needed(tensors, tensor.name)
        values = [tensor.default] * batch if array is None else tensor.read(tensor.name, array, batch)
        if tensor.field:
            for row, value in zip(rows, values, strict=True):
                row[tensor.field] = value
    return rows


def declared(
    entries: Sequence[Mapping[str, Any]], table: Sequence[Input] | Sequence[Output[Any]]
) -> dict[str, Any]:
    """Numpy types of the tensors that config.pbtxt declares in `entries` (its `input` or `output`).

    Raises:
        ModelLoadError: a tensor that the contract does not have, or with a data type of another kind.
    """
    known = {tensor.name: tensor.data_type for tensor in table}
    types = {}
    for entry in entries:
        name, data_type = entry["name"], entry["data_type"]
        if name not in known:
            raise ModelLoadError(f"config.pbtxt declares {name}; allowed are {', '.join(known)}")
        kind = next(kind for kind in _KINDS if known[name] in kind)
        if data_type not in kind:
            raise ModelLoadError(
                f"config.pbtxt declares {name} as {data_type}; allowed are {', '.join(kind)}"
            )
        types[name] = _NUMPY_TYPES[data_type]
    return types


def require(entries: Sequence[Mapping[str, Any]], table: Sequence[Input]) -> None:
    """Raises: ModelLoadError: config.pbtxt does not declare an input that every request needs."""
    names = {entry["name"] for entry in entries}
    missing = [tensor.name for tensor in table if not tensor.optional and tensor.name not in names]
    if missing:
        raise ModelLoadError(f"config.pbtxt does not declare the inputs {', '.join(missing)}")


def compute_outputs(
    table: Iterable[Output[State]], types: Mapping[str, Any], state: State
) -> dict[str, Array]:
    """The declared outputs that the request asked for, in the declared types."""
    outputs = {tensor.name: tensor.compute(state) for tensor in table if tensor.name in types}
    return {name: array.astype(types[name]) for name, array in outputs.items() if array is not None}
