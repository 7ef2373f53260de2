# SPDX-License-Identifier: BSD-3-Clause
"""A client of the text model: gRPC streaming and HTTP generate."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2.sandbox
import numpy as np
from tritonclient import grpc

from ..errors import FasterTransformerError
from . import tensor_client
from .tensor_client import ANSWER_TIMEOUT_S, RequestFailed, as_bytes

_NUMPY_TYPES = {bool: np.bool_, int: np.int32, float: np.float32, str: np.object_}


def stream(address: str, model: str, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Sends one request over gRPC and yields every response as {tensor name: value}.

    Raises:
        RequestFailed: the server's error, or no response in time.
    """
    arrays = {name: _array(value) for name, value in fields.items()}
    for response in tensor_client.stream(address, model, arrays):
        yield {name: _value(array) for name, array in response.items()}


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
        config = client.get_model_config(model, as_json=True, client_timeout=ANSWER_TIMEOUT_S)["config"]
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


def _array(value: Any) -> Any:
    """[batch = 1, 1]"""
    data = as_bytes(value) if isinstance(value, str) else value
    return np.array([[data]], _NUMPY_TYPES[type(value)])


def _value(array: Any) -> Any:
    """The only element, or the list of all: of beams."""
    values = [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]
    return values[0] if len(values) == 1 else values
