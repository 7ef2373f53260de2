# SPDX-License-Identifier: BSD-3-Clause
"""Tensors, errors and replies of Triton's Python backend; imported in its stub process only."""

import ctypes
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ..errors import EngineDead, FasterTransformerError, InvalidRequest, Overloaded
from .protocol import Array
from .responder import CancelledError

_USED = ctypes.c_char_p(b"used_dltensor")
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]
_CODES = {
    InvalidRequest: "INVALID_ARG",
    Overloaded: "UNAVAILABLE",
    EngineDead: "UNAVAILABLE",
    CancelledError: "CANCELLED",
}


class TritonReply:
    """Sends the responses of one request; works in decoupled models and in others.

    The server forgets a request with its last response, and to ask for its cancellation then, even from
    another thread at the same time, crashes it: hence the lock.
    """

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self._lock = threading.Lock()
        self._is_closed = False

    def send(self, outputs: Mapping[str, Array], final: bool) -> None:
        response = pb_utils.InferenceResponse([to_tensor(name, array) for name, array in outputs.items()])
        if final:
            self._close(response)
        else:
            self._sender.send(response)

    def fail(self, error: Exception) -> None:
        self._close(pb_utils.InferenceResponse([], error=to_triton_error(error)))

    def is_cancelled(self) -> bool:
        with self._lock:
            return not self._is_closed and bool(self._sender.is_cancelled())

    def _close(self, response: Any) -> None:
        with self._lock:
            self._is_closed = True
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def read_tensors(request: Any, types: Mapping[str, Any], batched: bool) -> dict[str, Array]:
    """The input tensors of a request by name, with a batch dimension of 1 where the model has none.

    Numbers come through DLPack: NumPy 2 cannot read the tensors of servers before 24.11 otherwise.
    """
    arrays = {}
    for tensor in request.inputs():
        if tensor.name() not in types:  # what sequence_batching adds; see `read_sequence`
            continue
        is_text = types[tensor.name()] is np.object_
        array = tensor.as_numpy() if is_text else np.from_dlpack(tensor)
        arrays[tensor.name()] = array if batched else array[np.newaxis]
    return arrays


def read_sequence(request: Any) -> tuple[int | str, bool, bool]:
    """(correlation id, whether it starts the sequence, whether it ends it)."""
    flags = request.flags()
    starts = bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
    return request.correlation_id(), starts, bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)


def to_tensor(name: str, array: Array) -> Any:
    """A Triton tensor; numbers go through DLPack for the reason given in `read_tensors`."""
    if array.dtype == np.object_ or array.size == 0:
        return pb_utils.Tensor(name, array)
    capsule = array.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    # The server marks the capsule as taken under a name that NumPy does not know, and NumPy then
    # complains about it for ever: give it the name that DLPack prescribes.
    _set_capsule_name(capsule, _USED)
    return tensor


def to_triton_error(error: Exception) -> Any:
    """Older servers lack some codes; INTERNAL is what they have for the rest."""
    name = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "INTERNAL")
    code = getattr(pb_utils.TritonError, name, pb_utils.TritonError.INTERNAL)
    text = str(error) if isinstance(error, FasterTransformerError) else f"{type(error).__name__}: {error}"
    return pb_utils.TritonError(text, code)


def log_info(text: str) -> None:
    pb_utils.Logger.log_info(text)


def log_error(text: str) -> None:
    pb_utils.Logger.log_error(text)
