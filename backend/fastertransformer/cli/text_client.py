# SPDX-License-Identifier: BSD-3-Clause
"""A client of the text model: gRPC streaming and HTTP generate."""

import json
import queue
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jinja2.sandbox
import numpy as np
from tritonclient import grpc

from ..errors import FasterTransformerError

ANSWER_TIMEOUT_S = 600.0

_TRITON_TYPES = {
    bool: ("BOOL", np.bool_),
    int: ("INT32", np.int32),
    float: ("FP32", np.float32),
    str: ("BYTES", np.object_),
}


class RequestFailed(FasterTransformerError):
    """The server answered with an error; the text is the server's."""


def stream(address: str, model: str, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Sends one request over gRPC and yields every response as {tensor name: value}.

    Raises:
        RequestFailed: the server's error, or no response in time.
    """
    responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = grpc.InferenceServerClient(address)
    client.start_stream(lambda result, error: responses.put((result, error)))
    try:
        inputs = [_tensor(name, value) for name, value in fields.items()]
        with suppress(grpc.InferenceServerException):  # the stream is broken, and told `responses` why
            client.async_stream_infer(model, inputs, enable_empty_final_response=True)
        while True:
            result, error = responses.get(timeout=ANSWER_TIMEOUT_S)
            if error is not None:
                raise RequestFailed(str(error.message()))
            response = result.get_response()
            if response.outputs:
                yield {tensor.name: _value(result.as_numpy(tensor.name)) for tensor in response.outputs}
            if response.parameters["triton_final_response"].bool_param:
                return
    except queue.Empty:
        raise RequestFailed(f"no response within {ANSWER_TIMEOUT_S:g} s") from None
    finally:
        client.stop_stream(cancel_requests=True)
        client.close()


def generate(address: str, model: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """One answer through HTTP `generate`.

    Raises:
        RequestFailed: the server's error.
    """
    request = urllib.request.Request(
        f"http://{address}/v2/models/{model}/generate", json.dumps(dict(fields)).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        raise RequestFailed(error.read().decode(errors="replace")) from None
    except urllib.error.URLError as error:
        raise RequestFailed(f"http://{address} does not answer: {error.reason}") from None


def tokenizer_of(address: str, model: str) -> Path:
    """The tokenizer folder that a served text model names; the server must be on this machine."""
    client = grpc.InferenceServerClient(address)
    try:
        config = client.get_model_config(model, as_json=True)["config"]
    except grpc.InferenceServerException as error:
        raise RequestFailed(str(error)) from None
    finally:
        client.close()
    parameter: Mapping[str, str] = config.get("parameters", {}).get("tokenizer_dir", {})
    return Path(parameter.get("string_value", ""))


def chat_prompt(tokenizer: Path, question: str) -> str:
    """The question as the model's chat template writes it, up to where the answer begins.

    Raises:
        FasterTransformerError: the tokenizer has no chat template.
    """
    settings_file, file = tokenizer / "tokenizer_config.json", tokenizer / "chat_template.jinja"
    settings = json.loads(settings_file.read_text()) if settings_file.exists() else {}
    template = file.read_text() if file.exists() else settings.get("chat_template")
    if template is None:
        raise FasterTransformerError(f"{tokenizer} has no chat template; leave out --chat")
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    names = {key: value for key, value in settings.items() if key.endswith("_token")}
    messages = [{"role": "user", "content": question}]
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **names)


def _tensor(name: str, value: Any) -> grpc.InferInput:
    triton_type, numpy_type = _TRITON_TYPES[type(value)]
    data = value.encode() if isinstance(value, str) else value
    tensor = grpc.InferInput(name, [1, 1], triton_type)
    tensor.set_data_from_numpy(np.array([[data]], numpy_type))
    return tensor


def _value(array: Any) -> Any:
    """The only element, or the list of all: of beams."""
    values = [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]
    return values[0] if len(values) == 1 else values
