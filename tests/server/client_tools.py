# SPDX-License-Identifier: BSD-3-Clause
"""What a client of the server does: tensors from lists, one answer, a stream of answers."""

import json
import queue
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

TIMEOUT_S = 200
Arrays = dict[str, Any]
_UINT32 = (
    "input_ids",
    "input_lengths",
    "request_output_len",
    "runtime_top_k",
    "start_id",
    "end_id",
    "beam_width",
    "sequence_length",
    "max_output_len",
    "top_p_reset_ids",
    "session_len",
    "memory_len",
    "prompt_learning_task_name_ids",
    "request_prompt_lengths",
    "request_prompt_type",
)
_TYPES = dict.fromkeys(_UINT32, np.uint32) | {
    "random_seed": np.uint64,
    "is_return_log_probs": np.bool_,
    "is_return_context_embeddings": np.bool_,
    "early_stopping": np.bool_,
    "min_length": np.int32,
    "forced_bos_id": np.int32,
    "ia3_tasks": np.int32,
    "no_repeat_ngram_size": np.int32,
    "num_return_sequences": np.int32,
    "stop_words_list": np.int32,
    "bad_words_list": np.int32,
}


def core_inputs(prompts: Sequence[Sequence[int]], new: int | Sequence[int], **more: Any) -> Arrays:
    """Inputs of the token contract; `more` has one value for all rows or one per row."""
    width = max(map(len, prompts))
    ids = np.zeros((len(prompts), width), np.uint32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    values = {"input_lengths": [len(prompt) for prompt in prompts], "request_output_len": new, **more}
    arrays = {
        name: per_row(value, len(prompts), _TYPES.get(name, np.float32)) for name, value in values.items()
    }
    return {"input_ids": ids, **arrays}


def encoder_decoder_inputs(inputs: Sequence[Sequence[int]], new: int | Sequence[int], **more: Any) -> Arrays:
    """The same for the contract of encoder-decoders."""
    arrays = core_inputs(inputs, new, **more)
    names = {"input_lengths": "sequence_length", "request_output_len": "max_output_len"}
    return {names.get(name, name): array for name, array in arrays.items()}


def tensorrt_llm_inputs(prompts: list[list[int]], new: Any, **more: Any) -> Arrays:
    """Of TensorRT-LLM's contract: signed ids and lengths; booleans and numbers by their Python type."""
    kinds = {bool: np.bool_, int: np.int32, float: np.float32}
    core = core_inputs(prompts, new)
    arrays = {name: array.astype(np.int32) for name, array in core.items()}
    extra = {
        name: value if isinstance(value, np.ndarray) else per_row(value, len(prompts), kinds[type(value)])
        for name, value in more.items()
    }
    return arrays | extra


def per_row(value: Any, batch: int, dtype: Any) -> Any:
    """[batch, 1] of scalars; arrays stay what they are."""
    if isinstance(value, np.ndarray):
        return value
    column = np.array(value, dtype).reshape(-1, 1)
    return np.ascontiguousarray(np.broadcast_to(column, (batch, 1)))


def word_list(words: Sequence[Sequence[int]], batch: int = 1) -> Any:
    """FasterTransformer's [batch, 2, L]."""
    ids = [token for word in words for token in word]
    ends = np.cumsum([len(word) for word in words]).tolist()
    return np.array([[ids, ends + [-1] * (len(ids) - len(ends))]] * batch, np.int32)


def tensors(module: Any, arrays: Mapping[str, Any]) -> list[Any]:
    inputs = []
    for name, value in arrays.items():
        array = np.asarray(value)
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def grpc_infer(url: str, model: str, arrays: Mapping[str, Any], **options: Any) -> Arrays:
    """All outputs of one response."""
    with grpcclient.InferenceServerClient(url) as client:
        result = client.infer(model, tensors(grpcclient, arrays), **{"client_timeout": TIMEOUT_S, **options})
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def http_infer(url: str, model: str, arrays: Mapping[str, Any], **options: Any) -> Arrays:
    with httpclient.InferenceServerClient(url, network_timeout=TIMEOUT_S) as client:
        result = client.infer(model, tensors(httpclient, arrays), **options)
    return {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}


class Stream:
    """One gRPC stream. Opened by `open_stream`."""

    def __init__(self, client: grpcclient.InferenceServerClient) -> None:
        self._client = client
        self.num_running = 0
        """Requests whose last response has not been read."""
        self._responses: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = queue.SimpleQueue()
        client.start_stream(callback=partial(_put, self._responses))

    def send(self, model: str, arrays: Mapping[str, Any], request_id: str = "", **options: Any) -> None:
        inputs = tensors(grpcclient, arrays)
        self.num_running += 1
        self._client.async_stream_infer(
            model, inputs, request_id=request_id, enable_empty_final_response=True, **options
        )

    def next(self) -> tuple[Arrays, bool]:
        """(outputs, whether it is the last response). Raises InferenceServerException, queue.Empty."""
        result, error = self._responses.get(timeout=TIMEOUT_S)
        if error is not None:
            self.num_running -= 1
            raise error
        response = result.get_response()
        outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
        is_final = response.parameters["triton_final_response"].bool_param
        self.num_running -= is_final
        return outputs, is_final

    def responses(self) -> Iterator[Arrays]:
        """The responses of one request, up to the last."""
        final = False
        while not final:
            outputs, final = self.next()
            if outputs:
                yield outputs


@contextmanager
def open_stream(url: str) -> Iterator[Stream]:
    """Leaving it cancels what still runs, and only then: see docs/deployment.md."""
    with grpcclient.InferenceServerClient(url) as client:
        stream = Stream(client)
        yield stream
        client.stop_stream(cancel_requests=stream.num_running > 0)


def _put(responses: Any, result: Any, error: Any) -> None:
    responses.put((result, error))


def stream_infer(url: str, model: str, arrays: Mapping[str, Any]) -> list[Arrays]:
    """All responses to one request of a decoupled model."""
    with open_stream(url) as stream:
        stream.send(model, arrays)
        return list(stream.responses())


def post(url: str, body: Mapping[str, Any]) -> tuple[int, str]:
    """Status and text of an HTTP POST of JSON."""
    request = urllib.request.Request(f"http://{url}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of server-sent events."""
    return [
        json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")
    ]
