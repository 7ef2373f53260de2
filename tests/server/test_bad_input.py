# SPDX-License-Identifier: BSD-3-Clause
"""Wrong requests: the error names the tensor, what came and what is allowed; neighbours go on."""

import re
from concurrent.futures import ThreadPoolExecutor

import client_tools as ct
import numpy as np
import pytest
from tiny_models import EOS_ID, MAX_POSITIONS, VOCAB_SIZE
from triton_process import TritonServer
from tritonclient.utils import InferenceServerException

GOOD = ct.core_inputs([[11, 12, 13], [21, 22]], 4)
U32, I32, F32 = np.uint32, np.int32, np.float32

# (tensor, what is sent for two rows, what the error says of it)
CASES = [
    ("input_ids", U32([[11, 300, 13], [21, 22, 0]]), r": token id 300 at position 1 .* \[0, 300\)"),
    ("input_lengths", U32([[3], [4]]), r" is 4; allowed is \[0, 3\]"),
    ("request_output_len", U32([[4], [MAX_POSITIONS]]), rf" is {MAX_POSITIONS}.* at most {MAX_POSITIONS}"),
    ("request_output_len", U32([[0], [4]]), " is 0; allowed is an integer >= 1"),
    ("request_output_len", U32([[4, 5, 6]] * 2), r" has shape \[2, 3\]; allowed are \[2, 1\]"),
    ("temperature", F32([[1], [-0.5]]), " is -0.5; allowed is a finite number >= 0"),
    ("runtime_top_p", F32([[np.nan], [0.5]]), r" is nan; allowed is a number in \[0, 1\]"),
    ("runtime_top_p", F32([[1.5], [0.5]]), r" is 1.5; allowed is a number in \[0, 1\]"),
    ("repetition_penalty", F32([[np.inf], [1]]), r" is inf; allowed is a number in \[1e-20, 1e\+20\]"),
    ("presence_penalty", F32([[np.nan], [1]]), " is nan; allowed"),
    ("min_length", I32([[-1], [0]]), " is -1; allowed"),
    ("beam_width", U32([[65], [1]]), r" is 65; allowed is an integer in \[1, 64\]"),
    ("top_p_decay", F32([[0.9], [1.1]]), r" is 1.1; allowed is a number in \(0, 1\]"),
    ("top_p_min", F32([[0.1], [0]]), r" is 0.0; allowed is a number in \(0, 1\]"),
    ("top_p_reset_ids", U32([[7], [300]]), r" is 300; allowed is a token id in \[0, 300\)"),
    ("no_repeat_ngram_size", I32([[3], [-2]]), " is -2; allowed is a finite number >= 0"),
    ("logit_bias", F32([[[5, 1]], [[5.5, 1]]]), ": token id 5.5 is not an integer"),
    ("logit_bias", F32([[[300, 1]], [[5, 1]]]), r": token id 300 at position 0 .* \[0, 300\)"),
    ("logit_bias", F32([[[5, np.inf]], [[5, 1]]]), ": the bias of token id 5 is inf; allowed"),
    ("logit_bias", F32([[[5, 1], [5, 2]], [[5, 1], [-1, 0]]]), ": token id 5 comes 2 times; allowed is once"),
    ("logit_bias", F32([[[5, 1, 2]]] * 2), r".*\[-1,-1,2\], got \[2,1,3\]"),
    ("num_return_sequences", I32([[0], [0]]), r" is 0; allowed is \[1, 256\]"),
    (
        "request_prompt_type",
        U32([[1], [1]]),
        " was sent without request_prompt_embedding and request_prompt_l",
    ),
    (
        "request_prompt_embedding",
        np.zeros((2, 1, 64), np.float16),
        " was sent without request_prompt_lengths",
    ),
    ("request_prompt_embedding", np.full((2, 1, 64), np.inf, np.float16), " has the value inf; allowed is"),
    ("prompt_learning_task_name_ids", U32([[0], [2]]), r" is 2; allowed are 0 \(squad\), 1 \(boolq\)"),
    ("stop_words_list", I32([[[1, 2], [3, -1]]] * 2), ": a word ends at 3"),
    ("stop_words_list", np.zeros((2, 3, 1), I32), r".*\[-1,2,-1\], got \[2,3,1\]"),
    ("bad_words_list", I32([[[1, 999], [2, -1]]] * 2), ": token id 999"),
    ("bad_words_list", I32([[[5] * 65, [65] + [-1] * 64]] * 2), ": a word has 65 tokens; allowed are 64"),
    ("stop_words_list", I32([[[5] * 8193, [*range(1, 8194)]]] * 2), " has 8193 words; allowed are 8192"),
    ("end_id", U32([[2], [5000]]), ": token id 5000"),
    ("input_ids", np.int64([[11, 12, 13], [21, 22, 0]]), ".*INT64.*UINT32"),
]
IDS = [f"{name}-{index}" for index, (name, _, _) in enumerate(CASES)]


@pytest.mark.parametrize(("name", "value", "expected"), CASES, ids=IDS)
def test_error_names_tensor_value_and_range(
    server: TritonServer, name: str, value: object, expected: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ct.grpc_infer(server.grpc, "fastertransformer", GOOD | {name: value})
    assert re.search(f"{name}'?{expected}", caught.value.message()), caught.value.message()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


SOFT = {
    "request_prompt_embedding": np.zeros((2, 3, 64), np.float16),
    "request_prompt_lengths": U32([[3], [2]]),
    "request_prompt_type": U32([[1], [1]]),
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"request_prompt_embedding": np.zeros((2, 3, 32), np.float16)},
            "has rows of 32 values; allowed is 64",
        ),
        ({"request_prompt_embedding": np.zeros((3, 3, 64), np.float16)}, "request_prompt_embedding"),
        ({"request_prompt_lengths": U32([[3], [4]])}, r"request_prompt_lengths is 4; allowed is \[0, 3\]"),
        ({"request_prompt_type": U32([[1], [2]])}, "request_prompt_type is 2; allowed are 1 .* 3 .*tasks"),
        (
            {"request_prompt_type": U32([[3]] * 2), "input_ids": U32([[11, 303, 13], [21, 22, 0]])},
            r"input_ids: virtual id 303 at position 1; .* \[300, 303\)",
        ),
        ({"request_output_len": U32([[4], [MAX_POSITIONS - 3]])}, "input_ids has 4 tokens"),
    ],
)
def test_error_of_a_prompt(server: TritonServer, change: ct.Arrays, expected: str) -> None:
    with pytest.raises(InferenceServerException, match=expected):
        ct.grpc_infer(server.grpc, "fastertransformer", GOOD | SOFT | change)


def test_more_sequences_than_may_wait_are_refused_at_once(server: TritonServer) -> None:
    """They would fill the queue, to the harm of others, before the last of them is refused."""
    arrays = ct.core_inputs([[11]] * 17, 2, num_return_sequences=256)
    text = {"text_input": np.array([[b"a"]] * 17, np.object_)}
    text["num_return_sequences"] = arrays["num_return_sequences"]
    for model, sent in (("fastertransformer", arrays), ("text_once", text)):
        with pytest.raises(InferenceServerException) as caught:
            ct.grpc_infer(server.grpc, model, sent)
        assert "num_return_sequences is 256 and the request has 17 rows" in caught.value.message()
        assert "4352 sequences, but at most 4096 may wait (max_queue_size)" in caught.value.message()
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_error_of_a_start_id(server: TritonServer) -> None:
    arrays = ct.core_inputs([[], []], 4, start_id=[2, 5000])
    with pytest.raises(InferenceServerException, match="start_id: token id 5000"):
        ct.grpc_infer(server.grpc, "fastertransformer", arrays)


def test_error_of_a_stream(server: TritonServer) -> None:
    with pytest.raises(InferenceServerException, match="temperature is nan"):
        ct.stream_infer(server.grpc, "streaming", GOOD | {"temperature": F32([[1], [np.nan]])})


@pytest.mark.parametrize("draws", [0, 40], ids=["greedy", "drawn"])
def test_a_request_whose_every_token_is_banned_fails_alone(server: TritonServer, draws: int) -> None:
    """All but the end id are bad words, and that may not come yet; or an output may hold no token twice."""
    words = ct.word_list([[token] for token in range(VOCAB_SIZE) if token != EOS_ID])
    early = {"bad_words_list": words, "min_length": 3}
    once = {"no_repeat_ngram_size": 1, "min_length": VOCAB_SIZE + 8}
    wishes = {"runtime_top_k": draws, "is_return_log_probs": True}
    before = ct.grpc_infer(server.grpc, "fastertransformer", GOOD)
    for bans, count in ((early, 0), (once, VOCAB_SIZE - 3)):
        with pytest.raises(
            InferenceServerException, match=f"leave no token to take after {count} new"
        ) as caught:
            ct.grpc_infer(
                server.grpc, "fastertransformer", ct.core_inputs([[11, 12]], VOCAB_SIZE + 9, **wishes, **bans)
            )
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    after = ct.grpc_infer(server.grpc, "fastertransformer", GOOD)
    assert after["output_ids"].tolist() == before["output_ids"].tolist()


def test_logits_that_overflow_leave_numbers_to_read(server: TritonServer) -> None:
    """What biases and a low temperature make of all tokens; over HTTP NaN would be no JSON."""
    least = float(np.finfo(np.float32).min)
    biases = np.array([[[token, least] for token in range(VOCAB_SIZE)]], np.float32)
    arrays = ct.core_inputs([[11]], 2, logit_bias=biases, temperature=0.5, is_return_log_probs=True)
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", arrays | {"runtime_top_k": U32([[4]])})
    assert np.isfinite(outputs["output_log_probs"]).all()
    assert np.isfinite(outputs["cum_log_probs"]).all()


def test_required_inputs(server: TritonServer) -> None:
    for name in GOOD:
        with pytest.raises(InferenceServerException, match=name):
            ct.grpc_infer(server.grpc, "fastertransformer", {k: v for k, v in GOOD.items() if k != name})


def without(name: str, arrays: ct.Arrays) -> ct.Arrays:
    """With others in its place: Triton counts the inputs of a request and looks at no names."""
    return {k: v for k, v in arrays.items() if k != name}


TEXT: ct.Arrays = {"text_input": np.array([[b"a"]], np.object_), "max_tokens": I32([[3]])}
LINE: ct.Arrays = {"QUERY": TEXT["text_input"], "REQUEST_OUTPUT_LEN": U32([[3]])}
LINE |= {"BAD_WORDS_DICT": np.array([[b""]], np.object_), "STOP_WORDS_DICT": np.array([[b""]], np.object_)}
TOKENS: ct.Arrays = {"TOKENS_BATCH": U32([[[11, 12]]]), "OUTPUT_LENGTHS": U32([[2]])}
DRAWN: ct.Arrays = {"temperature": F32([[1]] * 2), "runtime_top_k": U32([[1]] * 2)}


@pytest.mark.parametrize(
    ("model", "name", "arrays"),
    [
        *(("fastertransformer", name, GOOD | DRAWN) for name in GOOD),
        ("text_once", "text_input", TEXT),
        ("preprocessing", "QUERY", LINE),
        ("preprocessing", "REQUEST_OUTPUT_LEN", LINE),
        ("postprocessing", "TOKENS_BATCH", TOKENS),
    ],
)
def test_required_inputs_that_others_stand_in_for(
    server: TritonServer, model: str, name: str, arrays: ct.Arrays
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ct.grpc_infer(server.grpc, model, without(name, arrays))
    assert f"{name} was not sent; it is needed" in caught.value.message()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_required_inputs_of_the_other_contract(server: TritonServer) -> None:
    arrays = ct.tensorrt_llm_inputs([[11, 12]], 4, temperature=1.0)
    for name in ("input_ids", "input_lengths", "request_output_len"):
        with pytest.raises(InferenceServerException, match=f"{name} was not sent; it is needed"):
            ct.stream_infer(server.grpc, "tensorrt_llm", without(name, arrays))


def test_an_error_about_a_long_text_is_short(server: TritonServer) -> None:
    """gRPC drops long ones, and then the client is told of gRPC's own limits."""
    line = np.array([[b"a" * 200_000]], np.object_)
    for model, arrays, expected in (
        (
            "text_once",
            TEXT | {"text_input": np.array([[b"\xff" * 50_000]], np.object_)},
            "which is not UTF-8",
        ),
        ("preprocessing", LINE | {"BAD_WORDS_DICT": line}, "allowed are comma-separated values"),
    ):
        with pytest.raises(InferenceServerException, match=expected) as caught:
            ct.grpc_infer(server.grpc, model, arrays)
        assert len(caught.value.message()) < 1000


def test_no_tokens_and_no_ids_have_no_text(server: TritonServer) -> None:
    outputs = ct.grpc_infer(server.grpc, "postprocessing", {"TOKENS_BATCH": np.zeros((2, 1, 0), U32)})
    assert outputs["OUTPUT"].tolist() == [[b""], [b""]]


def test_lengths_of_no_rows(server: TritonServer) -> None:
    lengths = {"sequence_length": np.zeros((1, 0), U32), "RESPONSE_INPUT_LENGTHS": np.zeros((1, 0), I32)}
    arrays = {"TOKENS_BATCH": np.zeros((1, 0, 3), U32), **lengths}
    assert ct.grpc_infer(server.grpc, "postprocessing", arrays)["OUTPUT"].shape == (1, 0)


def test_a_length_that_does_not_count_the_prompt_cuts_nothing_off_the_end(server: TritonServer) -> None:
    """As llama's `sequence_length`, beside which RESPONSE_INPUT_LENGTHS says how long the prompts are."""
    lengths = {"sequence_length": U32([[3], [3]]), "RESPONSE_INPUT_LENGTHS": I32([[2], [6]])}
    arrays = {"TOKENS_BATCH": np.full((2, 1, 9), 70, U32), **lengths}
    with pytest.raises(InferenceServerException) as caught:
        ct.grpc_infer(server.grpc, "postprocessing", arrays)
    expected = "sequence_length by RESPONSE_INPUT_LENGTHS ends a row of TOKENS_BATCH at -1; allowed is"
    assert expected in caught.value.message()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_http_says_bad_request(server: TritonServer) -> None:
    status, text = ct.post(f"{server.http}/v2/models/text/generate", {"text_input": "x", "temperature": -1.0})
    assert status == 400
    assert "temperature is -1.0; allowed is a finite number >= 0" in text


def test_neighbours_of_wrong_requests_go_on(server: TritonServer) -> None:
    def ask(change: ct.Arrays) -> str:
        try:
            return str(ct.grpc_infer(server.grpc, "fastertransformer", GOOD | change)["output_ids"].tolist())
        except InferenceServerException:
            return "error"

    good = ask({})
    with ThreadPoolExecutor(16) as pool:
        changes = [{}, *({name: value} for name, value, _ in CASES), {}] * 3
        assert list(pool.map(ask, changes)) == [good, *["error"] * len(CASES), good] * 3
