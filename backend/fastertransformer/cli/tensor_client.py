# SPDX-License-Identifier: BSD-3-Clause
"""A client of any model: arrays in, arrays out, over gRPC or HTTP, in one piece or streamed."""

import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ..errors import FasterTransformerError

ANSWER_TIMEOUT_S = 600.0
MAX_INT32 = 2**31 - 1
MAX_UINT32 = 2**32 - 1
"""Numpy would make another number of what is larger."""

Arrays = Mapping[str, npt.NDArray[Any]]


class RequestFailed(FasterTransformerError):
    """The server answered with an error; the text is the server's."""


class Protocol(str, Enum):
    """How a server is talked to."""

    GRPC = "grpc"
    HTTP = "http"


_DEFAULT_ADDRESSES = {Protocol.GRPC: "127.0.0.1:8001", Protocol.HTTP: "127.0.0.1:8000"}


def address_of(url: str | None, protocol: Protocol) -> str:
    """The user's, or where `serve` listens."""
    return url or _DEFAULT_ADDRESSES[protocol]


def as_bytes(text: str) -> bytes:
    """Of a text from the command line, which need not be UTF-8: the server says so."""
    return text.encode(errors="surrogateescape")


def infer(address: str, protocol: Protocol, model: str, arrays: Arrays) -> dict[str, Any]:
    """The only response to one request, as {tensor name: array}.

    Raises:
        RequestFailed: the server's error, or no server.
    """
    with _failures():
        if protocol is Protocol.HTTP:
            with http.InferenceServerClient(address, network_timeout=ANSWER_TIMEOUT_S) as client:
                result = client.infer(model, _tensors(http, arrays))
            return {
                entry["name"]: result.as_numpy(entry["name"]) for entry in result.get_response()["outputs"]
            }
        with grpc.InferenceServerClient(address) as client:
            return _outputs(client.infer(model, _tensors(grpc, arrays), client_timeout=ANSWER_TIMEOUT_S))


def infer_together(address: str, model: str, arrays: Arrays, count: int) -> list[dict[str, Any]]:
    """`count` equal requests in flight at the same time, over gRPC; their responses in the order of arrival.

    Raises:
        RequestFailed: the first error of the server, or no response in time.
    """
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with _failures(), grpc.InferenceServerClient(address) as client:
        inputs = _tensors(grpc, arrays)
        for _ in range(count):
            client.async_infer(model, inputs, lambda result, error: answers.put((result, error)))
        return [_outputs(_next(answers)) for _ in range(count)]


def stream(address: str, model: str, arrays: Arrays) -> Iterator[dict[str, Any]]:
    """Every response to one request, over a gRPC stream, as {tensor name: array}.

    Leaving it before the last one cancels the request.

    Raises:
        RequestFailed: the server's error, or no response in time.
    """
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = grpc.InferenceServerClient(address)
    client.start_stream(lambda result, error: answers.put((result, error)))
    is_final = False
    try:
        with suppress(InferenceServerException):  # the stream is broken, and told `answers` why
            client.async_stream_infer(model, _tensors(grpc, arrays), enable_empty_final_response=True)
        while not is_final:
            result = _next(answers)
            response = result.get_response()
            is_final = response.parameters["triton_final_response"].bool_param
            if response.outputs:
                yield _outputs(result)
    finally:
        # A stream that is cancelled just after its end may stay in the server for ever, its model with it.
        client.stop_stream(cancel_requests=not is_final)
        client.close()


@contextmanager
def _failures() -> Iterator[None]:
    """Turns the client's exceptions into RequestFailed."""
    try:
        yield
    except InferenceServerException as error:
        raise RequestFailed(str(error.message())) from None
    except OSError as error:
        raise RequestFailed(f"there is no answer: {error}") from None


def _next(answers: "queue.Queue[tuple[Any, Any]]") -> Any:
    try:
        result, error = answers.get(timeout=ANSWER_TIMEOUT_S)
    except queue.Empty:
        raise RequestFailed(f"no response within {ANSWER_TIMEOUT_S:g} s") from None
    if error is not None:
        raise RequestFailed(str(error.message()))
    return result


def _outputs(result: Any) -> dict[str, Any]:
    return {tensor.name: result.as_numpy(tensor.name) for tensor in result.get_response().outputs}


def _tensors(module: Any, arrays: Arrays) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        inputs.append(tensor)
    return inputs
