# SPDX-License-Identifier: BSD-3-Clause
"""TensorRT-LLM's contract on a real server: what its clients, and Triton's OpenAI frontend, send and read."""

from typing import Any

import client_tools as ct
import numpy as np
import pytest
from tiny_models import LONG, VOCAB_SIZE
from tokenizers import Tokenizer
from triton_process import TritonServer
from tritonclient.utils import InferenceServerException

from fastertransformer.server.contracts import tensorrt_llm

PROMPTS = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31]]
NEW = [6, 4, 9]
inputs = ct.tensorrt_llm_inputs


def final_state(server: TritonServer, arrays: ct.Arrays) -> ct.Arrays:
    (response,) = ct.stream_infer(server.grpc, "tensorrt_llm", arrays)
    return response


def core_rows(server: TritonServer, **more: Any) -> list[list[int]]:
    """Prompt and new tokens of every row, by FasterTransformer's contract."""
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs(PROMPTS, NEW, **more))
    ends = outputs["output_lengths"][:, 0]
    return [row[:end].tolist() for row, end in zip(outputs["output_ids"][:, 0], ends, strict=True)]


def test_one_response_holds_prompt_and_output(server: TritonServer) -> None:
    response = final_state(server, inputs(PROMPTS, NEW))
    rows = core_rows(server)
    assert response["output_ids"].dtype == response["sequence_length"].dtype == np.int32
    assert response["sequence_length"].tolist() == [[len(row)] for row in rows]
    assert response["output_ids"].shape == (3, 1, max(map(len, rows)))
    for ids, row in zip(response["output_ids"][:, 0].tolist(), rows, strict=True):
        assert ids[: len(row)] == row
    assert response["batch_index"].tolist() == [[0], [1], [2]]
    assert response["sequence_index"].tolist() == [[0]] * 3
    assert "num_input_tokens" not in response


def test_output_without_the_prompt_padded_as_asked(server: TritonServer) -> None:
    wishes = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    response = final_state(
        server, inputs(PROMPTS, NEW, exclude_input_in_output=True, pad_id=7, min_tokens=9, **wishes)
    )
    rows = core_rows(server, min_length=9)
    new = [row[len(prompt) :] for row, prompt in zip(rows, PROMPTS, strict=True)]
    assert response["sequence_length"].tolist() == [[count] for count in NEW]
    assert response["output_ids"][:, 0].tolist() == [row + [7] * (9 - len(row)) for row in new]
    assert response["num_input_tokens"].tolist() == [[3], [7], [1]]
    assert response["num_output_tokens"].tolist() == [[count] for count in NEW]


def test_renamed_inputs_do_what_they_do_in_the_other_contract(server: TritonServer) -> None:
    seed = np.uint64([[3], [4], [5]])
    response = final_state(
        server, inputs(PROMPTS, NEW, seed=seed, runtime_top_k=9, temperature=1.5, min_tokens=9)
    )
    wanted = core_rows(server, random_seed=seed, runtime_top_k=9, temperature=1.5, min_length=9)
    ends = response["sequence_length"][:, 0]
    assert [row[:n].tolist() for row, n in zip(response["output_ids"][:, 0], ends, strict=True)] == wanted


def test_streamed_responses_hold_the_new_tokens(server: TritonServer) -> None:
    new = 400
    arrays = inputs(PROMPTS, new, min_tokens=new, return_log_probs=True)
    whole = final_state(server, arrays | inputs(PROMPTS, new, exclude_input_in_output=True))
    pieces = ct.stream_infer(server.grpc, "tensorrt_llm", arrays | inputs(PROMPTS, new, streaming=True))
    assert len(pieces) > 3
    for row in range(3):
        for name in ("output_ids", "output_log_probs"):
            parts = [piece[name][row, 0, : piece["sequence_length"][row, 0]] for piece in pieces]
            np.testing.assert_allclose(np.concatenate(parts), whole[name][row, 0], rtol=1e-4)
    np.testing.assert_allclose(pieces[-1]["cum_log_probs"], whole["cum_log_probs"], rtol=1e-4)


def test_samples_and_biases(server: TritonServer) -> None:
    """Samples of a row take the place of beams; the dense bias is that of FasterTransformer's pairs."""
    bias = np.zeros((1, 300), np.float32)
    bias[0, 77] = 100
    more = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    response = final_state(
        server, inputs([PROMPTS[0]], 4, num_return_sequences=2, embedding_bias=bias, **more)
    )
    assert response["output_ids"].tolist() == [[[*PROMPTS[0], 77, 77, 77, 77]] * 2]
    assert response["sequence_length"].tolist() == [[7, 7]]
    assert response["num_input_tokens"].tolist() == [[3]]
    assert response["num_output_tokens"].tolist() == [[8]]
    assert response["batch_index"].tolist() == [[0]]


def test_prompt_tables(server: TritonServer) -> None:
    """Ids behind the vocabulary are rows, as FasterTransformer's virtual tokens, but stay in the output."""
    rows = np.random.default_rng(4).normal(size=(1, 4, 64)).astype(np.float16)
    prompt = [VOCAB_SIZE + 3, 11, VOCAB_SIZE, 12]
    own = {"request_prompt_embedding": rows, "request_prompt_lengths": 4, "request_prompt_type": 3}
    expected = ct.grpc_infer(
        server.grpc, "fastertransformer", ct.core_inputs([prompt], 8, min_length=8, **own)
    )
    table = {"prompt_embedding_table": rows, "prompt_table_extra_ids": np.uint64([[1, 0, 1, 0]])}
    response = final_state(server, inputs([prompt], 8, min_tokens=8, **table))
    assert response["output_ids"].tolist() == [[prompt + expected["output_ids"][0, 0, 2:10].tolist()]]
    with pytest.raises(InferenceServerException, match=r"virtual id 303 at position 0; .* \[300, 303\)"):
        final_state(server, inputs([prompt], 8, prompt_vocab_size=3, **table))


def stop_request() -> ct.Arrays:
    """As TensorRT-LLM's client makes it: its other tensors mean nothing."""
    empty = {
        name: np.zeros((1, 1), np.int32) for name in ("input_ids", "input_lengths", "request_output_len")
    }
    return empty | {"stop": np.array([[True]])}


def test_stop_ends_the_request_of_the_same_id_with_what_it_has(server: TritonServer) -> None:
    with ct.open_stream(server.grpc) as stream:
        long = inputs([PROMPTS[0]], LONG, min_tokens=LONG)
        stream.send("tensorrt_llm", long | inputs([PROMPTS[0]], LONG, streaming=True), "12345")
        tokens = int(stream.next()[0]["sequence_length"].sum())
        stream.send("tensorrt_llm", stop_request(), "another")
        stream.send("tensorrt_llm", stop_request(), "12345")
        finals = 0
        while finals < 3:
            outputs, final = stream.next()
            finals += final
            tokens += int(outputs["sequence_length"].sum()) if outputs else 0
    assert 0 < tokens < LONG


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"request_output_len": np.int32([[0]])}, "request_output_len is 0; allowed"),
        ({"min_tokens": np.int32([[-1]])}, "min_tokens is -1; allowed"),
        ({"lora_task_id": np.uint64([[1]])}, "LoRA adapters are not served"),
        (
            {"return_perf_metrics": np.array([[True]])},
            "return_perf_metrics is True; allowed is False: these figures are in the server's metrics",
        ),
        (
            {"return_generation_logits": np.array([[True]]), "beam_width": np.int32([[2]])},
            "beam_width is 2; allowed is 1 with return_generation_logits",
        ),
        (
            {"prompt_embedding_table": np.zeros((1, 2, 32), np.float16)},
            "prompt_embedding_table has rows of 32 values; allowed is 64",
        ),
        ({"draft_input_ids": np.int32([[5]])}, "draft_input_ids was sent .* draft tokens are not served"),
    ],
)
def test_errors_are_in_the_names_of_the_contract(
    server: TritonServer, arrays: ct.Arrays, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        final_state(server, inputs([[11]], 3) | arrays)


def test_what_changes_nothing_is_ignored(server: TritonServer) -> None:
    hints = {
        "retention_decode_priority": np.int32([[50]]),
        "early_stopping": np.array([[True]]),
        "return_perf_metrics": np.array([[False]]),
    }
    plain, hinted = (final_state(server, inputs([[11]], 3) | more) for more in ({}, hints))
    assert plain["output_ids"].tolist() == hinted["output_ids"].tolist()


def test_every_row_has_its_place() -> None:
    names = [row.name for row in tensorrt_llm.INPUTS]
    assert len(set(names)) == len(names)


def text_inputs(prompt: str, **more: Any) -> ct.Arrays:
    kinds = {bool: np.bool_, int: np.int32, float: np.float32}
    arrays = {name: np.array([[value]], kinds[type(value)]) for name, value in more.items()}
    return {"text_input": np.array([[prompt.encode()]], np.object_)} | arrays


def text_of(response: ct.Arrays) -> str:
    """As TensorRT-LLM's end-to-end client reads it."""
    text: bytes = response["text_output"][0]
    return text.decode()


def test_text_model_gives_its_clients_flat_strings(server: TritonServer, tokenizer: Tokenizer) -> None:
    new = core_rows(server)[0][len(PROMPTS[0]) :]
    prompt = tokenizer.decode(PROMPTS[0])
    assert tokenizer.encode(prompt).ids == PROMPTS[0]
    client = {"beam_width": 1, "temperature": 1.0, "num_return_sequences": 1, "exclude_input_in_output": True}
    whole = ct.stream_infer(
        server.grpc, "tensorrt_llm_bls", text_inputs(prompt, max_tokens=NEW[0], stream=False, **client)
    )
    assert len(whole) == 1
    assert text_of(whole[0]) == tokenizer.decode(new)
    assert whole[0]["batch_index"].tolist() == whole[0]["sequence_index"].tolist() == [[0]]
    pieces = ct.stream_infer(
        server.grpc, "tensorrt_llm_bls", text_inputs(prompt, max_tokens=NEW[0], stream=True, **client)
    )
    assert "".join(map(text_of, pieces)) == text_of(whole[0])


def test_what_the_openai_frontend_sends(server: TritonServer) -> None:
    """One string in a response, one response without `stream`, counts as INT32 where they are asked for."""
    more = {
        "stop_words": np.array([[b"never to be found", b"nor this"]], np.object_),
        "seed": np.uint64([[3]]),
        "return_num_input_tokens": np.array([[True]]),
        "return_num_output_tokens": np.array([[True]]),
    }
    request = text_inputs("Hello", max_tokens=9, top_p=0.9, temperature=0.7, frequency_penalty=0.1)
    for stream in (False, True):
        responses = ct.stream_infer(
            server.grpc, "tensorrt_llm_bls", request | more | {"stream": np.array([[stream]])}
        )
        assert stream or len(responses) == 1
        assert all(response["text_output"].size == 1 for response in responses)
        assert responses[0]["num_output_tokens"].dtype == np.int32
        counts = [int(response["num_output_tokens"].item()) for response in responses]
        assert 1 <= sum(counts) <= 9


def test_http_generate(server: TritonServer) -> None:
    status, text = ct.post(
        f"{server.http}/v2/models/tensorrt_llm_bls/generate", {"text_input": "Hello", "max_tokens": 4}
    )
    assert status == 200, text
    assert "text_output" in text
    status, text = ct.post(
        f"{server.http}/v2/models/tensorrt_llm_bls/generate",
        {"text_input": "Hello", "max_tokens": 4, "guided_decoding_guide": "x"},
    )
    assert status == 400
    assert "guided decoding is not served" in text
