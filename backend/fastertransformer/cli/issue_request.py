# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer issue-request`: any request, from a JSON file.

`{"config": {...}, "request": [{"name": ..., "data": [...], "dtype": "uint32"}, ...]}`, as in the old
service's samples; `object` is the dtype of text.
"""

import json
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..errors import FasterTransformerError, InvalidRequest
from .console import output
from .tensor_client import Protocol, address_of, infer, infer_together, stream

_DEFAULTS = {"protocol": "http", "url": None, "model_name": "fastertransformer", "stream_api": False}


class Mode(str, Enum):
    """How the responses are waited for."""

    FILE = "file"
    SYNC = "sync"
    ASYNC = "async"
    STREAM = "stream"


def issue_request(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON file.", show_default=False)],
    params: Annotated[
        str, typer.Option(help="JSON that replaces parts of the file, such as config or request.")
    ] = "{}",
    mode: Annotated[
        Mode,
        typer.Option(
            help="sync: one response; async: over gRPC, with --count; stream: a decoupled model, over gRPC;"
            " file: sync, or stream where the file's config says stream_api."
        ),
    ] = Mode.FILE,
    count: Annotated[int, typer.Option(min=1, help="With async: equal requests at the same time.")] = 1,
    test: Annotated[
        bool, typer.Option("--test", help="With stream: an error unless every response has more tokens.")
    ] = False,
) -> None:
    """Send the request that a JSON file describes, and print the tensors of the answer.

    The file's config may name protocol (http, grpc), url, model_name and stream_api.
    """
    config, arrays = read(file, params)
    model, streams = config["model_name"], config["stream_api"]
    chosen = {True: Mode.STREAM, False: Mode.SYNC}[bool(streams)] if mode is Mode.FILE else mode
    protocol = Protocol(config["protocol"]) if chosen is Mode.SYNC else Protocol.GRPC
    address = address_of(config["url"], protocol)
    if chosen is Mode.STREAM:
        _print_stream(address, model, arrays, test)
    elif chosen is Mode.ASYNC:
        for response in infer_together(address, model, arrays, count):
            _print(response)
    else:
        _print(infer(address, protocol, model, arrays))


def read(file: Path, params: str = "{}") -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and tensors of a request file.

    Raises:
        InvalidRequest: the file or `params` is not JSON of that form.
    """
    try:
        content: dict[str, Any] = {"config": _DEFAULTS}
        for text in (file.read_text(), params):
            content = _merged(content, _object(text))
        arrays = {field["name"]: _array(field["data"], field["dtype"]) for field in content["request"]}
        Protocol(content["config"]["protocol"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"{file} with {params!r} is no request: {type(error).__name__}: {error}"
        ) from None
    return content["config"], arrays


def _object(text: str) -> Mapping[str, Any]:
    """Raises: ValueError: it is not JSON. TypeError: it is something else in JSON."""
    value = json.loads(text)
    if not isinstance(value, Mapping):
        raise TypeError(f"an object is expected, and {type(value).__name__} came")
    return value


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` over `old`, mappings key by key."""
    both = {
        key: _merged(old[key], value)
        if isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
        else value
        for key, value in new.items()
    }
    return {**old, **both}


def _array(data: Any, dtype: str) -> Any:
    array = np.array(data, dtype)
    if array.dtype != np.object_:
        return array
    return np.vectorize(lambda text: text.encode(), otypes=[np.object_])(array)


def _print_stream(address: str, model: str, arrays: dict[str, Any], test: bool) -> None:
    start, before = time.perf_counter(), 0
    for response in stream(address, model, arrays):
        output.print(f"[bold]after {time.perf_counter() - start:.2f} s[/]", highlight=False)
        _print(response)
        now = int(response["sequence_length"].reshape(-1)[0]) if test else 0
        if test and now <= before:
            raise FasterTransformerError(f"a response has {now} tokens after one that has {before}")
        before = now


def _print(response: dict[str, Any]) -> None:
    for name, array in response.items():
        output.print(f"{name}:\n{array}", markup=False, highlight=False)
