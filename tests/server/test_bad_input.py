# SPDX-License-Identifier: BSD-3-Clause
"""Wrong requests: the error names the tensor, what came and what is allowed; neighbours go on."""

import re
from concurrent.futures import ThreadPoolExecutor

import client_tools as ct
import numpy as np
import pytest
from tiny_models import MAX_POSITIONS, VOCAB_SIZE
from tritonclient.utils import InferenceServerException
from triton_process import TritonServer

GOOD = ct.core_inputs([[11, 12, 13], [21, 22]], 4)

CASES = {
    "token": ({"input_ids": np.uint32([[11, 300, 13], [21, 22, 0]])}, rf"input_ids: token id 300 .*\[0, {VOCAB_SIZE}\)"),
    "length": ({"input_lengths": np.uint32([[3], [4]])}, r"input_lengths is 4; allowed is \[0, 3\]"),
    "output": ({"request_output_len": np.uint32([[4], [MAX_POSITIONS]])}, rf"request_output_len is {MAX_POSITIONS}.*{MAX_POSITIONS}"),
    "nothing": ({"request_output_len": np.uint32([[0], [4]])}, "request_output_len is 0; allowed is an integer >= 1"),
    "negative": ({"temperature": np.float32([[1], [-0.5]])}, "temperature is -0.5; allowed is a finite number >= 0"),
    "nan": ({"runtime_top_p": np.float32([[np.nan], [0.5]])}, r"runtime_top_p is nan; allowed is a number in \[0, 1\]"),
    "infinite": ({"repetition_penalty": np.float32([[np.inf], [1]])}, "repetition_penalty is inf; allowed"),
    "top_p": ({"runtime_top_p": np.float32([[1.5], [0.5]])}, r"runtime_top_p is 1.5; allowed is a number in \[0, 1\]"),
    "min_length": ({"min_length": np.int32([[-1], [0]])}, "min_length is -1; allowed"),
    "beams": ({"beam_width": np.uint32([[4], [4]])}, "beam_width is 4; allowed is 1: beam search is not served yet"),
    "decay": ({"top_p_decay": np.float32([[0.9], [0.9]])}, "top_p_decay is 0.9; allowed is 1.0: .*not served yet"),
    "context": ({"is_return_context_embeddings": np.array([[True], [True]])}, "is_return_context_embeddings is True; .*not served yet"),
    "prompt": ({"request_prompt_type": np.uint32([[1], [1]])}, "request_prompt_type .*not served yet"),
    "embedding": ({"request_prompt_embedding": np.zeros((2, 1, 64), np.float16)}, "request_prompt_embedding .*not served yet"),
    "stop": ({"stop_words_list": np.int32([[[1, 2], [3, -1]]] * 2)}, "stop_words_list: a word ends at 3"),
    "bad": ({"bad_words_list": np.int32([[[1, 999], [2, -1]]] * 2)}, "bad_words_list: token id 999"),
    "end_id": ({"end_id": np.uint32([[2], [5000]])}, "end_id: token id 5000"),
    "start_id": ({**ct.core_inputs([[], []], 4), "start_id": np.uint32([[2], [5000]])}, "token id 5000"),
    "shape": ({"request_output_len": np.uint32([[4, 5, 6], [4, 5, 6]])}, r"request_output_len has shape \[2, 3\]; allowed are \[2, 1\]"),
    "words": ({"stop_words_list": np.zeros((2, 3, 1), np.int32)}, "stop_words_list"),
    "type": ({"input_ids": np.int64([[11, 12, 13], [21, 22, 0]])}, "input_ids.*INT64.*UINT32"),
    "rows": ({"temperature": np.float32([[1]])}, "batch size does not match"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_error_names_tensor_value_and_range(server: TritonServer, case: str) -> None:
    change, expected = CASES[case]
    with pytest.raises(InferenceServerException) as caught:
        ct.grpc_infer(server.grpc, "fastertransformer", GOOD | change)
    assert re.search(expected, caught.value.message()), caught.value.message()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_error_of_a_stream(server: TritonServer) -> None:
    with pytest.raises(InferenceServerException, match="temperature is nan"):
        ct.stream_infer(server.grpc, "streaming", GOOD | {"temperature": np.float32([[1], [np.nan]])})


def test_required_inputs(server: TritonServer) -> None:
    for name in GOOD:
        with pytest.raises(InferenceServerException, match=name):
            ct.grpc_infer(server.grpc, "fastertransformer", {k: v for k, v in GOOD.items() if k != name})


def test_http_says_bad_request(server: TritonServer) -> None:
    status, text = ct.post(f"{server.http}/v2/models/text/generate", {"text_input": "x", "temperature": -1.0})
    assert status == 400
    assert "temperature is -1.0; allowed is a finite number >= 0" in text


def test_neighbours_of_wrong_requests_go_on(server: TritonServer) -> None:
    def ask(case: str | None) -> str:
        change = CASES[case][0] if case else {}
        try:
            return str(ct.grpc_infer(server.grpc, "fastertransformer", GOOD | change)["output_ids"].tolist())
        except InferenceServerException:
            return "error"

    good = ask(None)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, [None, *CASES, None] * 3))
    wrong = ["error"] * len(CASES)
    assert answers == [good, *wrong, good] * 3
