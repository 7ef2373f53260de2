# SPDX-License-Identifier: BSD-3-Clause
"""The token contract on a real server, one response per request."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import client_tools as ct
import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
from tiny_models import BOS_ID, EOS_ID, LONG
from transformers import AutoModelForCausalLM
from triton_process import TritonServer, wait_for

PROMPTS = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31], [41, 42, 43, 44]]


def generated(outputs: ct.Arrays, prompts: list[list[int]]) -> list[list[int]]:
    """New tokens of every row, by the llama contract's lengths."""
    lengths = outputs["sequence_length"][:, 0]
    rows = outputs["output_ids"][:, 0].tolist()
    return [row[len(p) : len(p) + n] for row, p, n in zip(rows, prompts, lengths, strict=True)]


def greedy(checkpoint: Path, prompt: list[int], new: int) -> list[int]:
    """What transformers generates."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=new, do_sample=False, pad_token_id=EOS_ID)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("infer", ["grpc", "http"])
def test_greedy_rows_equal_transformers(server: TritonServer, llama: Path, infer: str) -> None:
    arrays = ct.core_inputs(PROMPTS, 12)
    if infer == "grpc":
        outputs = ct.grpc_infer(server.grpc, "fastertransformer", arrays)
    else:
        outputs = ct.http_infer(server.http, "fastertransformer", arrays)
    assert generated(outputs, PROMPTS) == [greedy(llama, prompt, 12) for prompt in PROMPTS]


def test_llama_contract_shapes_and_types(server: TritonServer) -> None:
    outputs = ct.grpc_infer(
        server.grpc, "fastertransformer", ct.core_inputs(PROMPTS, [3, 5, 4, 2], min_length=9)
    )
    lengths = {"sequence_length", "input_sequence_lengths", "response_input_lengths", "output_lengths"}
    assert set(outputs) == {"output_ids", *lengths}
    assert outputs["output_ids"].shape == (4, 1, 7 + 5)
    assert outputs["output_ids"].dtype == outputs["sequence_length"].dtype == np.uint32
    assert outputs["sequence_length"].tolist() == [[3], [5], [4], [2]]
    assert outputs["input_sequence_lengths"].tolist() == [[3], [7], [1], [4]]
    assert outputs["output_lengths"].tolist() == [[3 + 3], [7 + 5], [1 + 4], [4 + 2]]
    for row, prompt, new in zip(outputs["output_ids"][:, 0].tolist(), PROMPTS, [3, 5, 4, 2], strict=True):
        assert row[: len(prompt)] == prompt
        assert row[len(prompt) + new :] == [EOS_ID] * (12 - len(prompt) - new)


def test_gpt_contract_counts_the_padded_prompt(server: TritonServer, gpt2: Path) -> None:
    outputs = ct.grpc_infer(server.grpc, "gpt", ct.core_inputs(PROMPTS, [3, 5, 4, 2], min_length=9))
    assert outputs["sequence_length"].tolist() == [[7 + 3], [7 + 5], [7 + 4], [7 + 2]]
    assert outputs["response_input_lengths"].tolist() == [[3], [7], [1], [4]]
    assert outputs["response_input_lengths"].dtype == np.int32
    plain = ct.grpc_infer(server.grpc, "gpt", ct.core_inputs(PROMPTS[:1], 6))
    count = int(plain["sequence_length"][0, 0]) - 3
    assert plain["output_ids"][0, 0, 3 : 3 + count].tolist() == greedy(gpt2, PROMPTS[0], 6)


def test_what_triton_batches_by_an_old_config_equals_requests_alone(server: TritonServer) -> None:
    def ask(number: int) -> list[list[list[int]]]:
        prompts = [list(range(5, 6 + number)), [7] * number]
        arrays = ct.core_inputs(prompts, [3 + number, 2], runtime_top_k=5, random_seed=number)
        return ct.grpc_infer(server.grpc, "gpt", arrays)["output_ids"].tolist()

    alone = [ask(number) for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(1, 9))) == alone


def test_declared_tensors_may_be_left_out_of_config(server: TritonServer) -> None:
    outputs = ct.grpc_infer(server.grpc, "short", ct.core_inputs(PROMPTS, 2))
    assert outputs["response_input_lengths"].tolist() == [[3], [7], [1], [4]]


def test_rows_with_their_own_parameters_equal_requests_of_their_own(server: TritonServer) -> None:
    options = {
        "runtime_top_k": [0, 5, 0, 40],
        "runtime_top_p": [0.0, 0.0, 0.9, 0.8],
        "temperature": [1.0, 0.7, 1.3, 2.0],
        "repetition_penalty": [1.0, 1.2, 1.0, 1.5],
        "random_seed": [1, 2, 3, 4],
        "min_length": [0, 3, 9, 0],
        "min_p": [0.0, 0.1, 0.0, 0.05],
        "presence_penalty": [0.0, 0.5, 0.0, 0.1],
        "frequency_penalty": [0.3, 0.0, 0.0, 0.1],
    }
    new = [4, 9, 6, 12]
    together = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs(PROMPTS, new, **options))
    for i, row in enumerate(generated(together, PROMPTS)):
        own = {name: values[i] for name, values in options.items()}
        alone = ct.grpc_infer(
            server.grpc, "fastertransformer", ct.core_inputs(PROMPTS[i : i + 1], new[i], **own)
        )
        assert generated(alone, PROMPTS[i : i + 1]) == [row]


def test_seeds_make_streams(server: TritonServer) -> None:
    def sample(seed: int | list[int]) -> list[list[int]]:
        arrays = ct.core_inputs([PROMPTS[0]] * 3, 12, random_seed=seed, runtime_top_p=1.0, temperature=2.0)
        return generated(ct.grpc_infer(server.grpc, "fastertransformer", arrays), [PROMPTS[0]] * 3)

    same, other = sample(7), sample([7, 8, 7])
    assert same[0] == same[1] == same[2] == other[0] == other[2] != other[1]


def test_log_probs(server: TritonServer) -> None:
    arrays = ct.core_inputs(PROMPTS, [3, 5, 4, 2], is_return_log_probs=True, min_length=9)
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", arrays)
    log_probs = outputs["output_log_probs"]
    assert log_probs.shape == (4, 1, 5)
    assert outputs["cum_log_probs"].shape == (4, 1)
    np.testing.assert_allclose(outputs["cum_log_probs"], log_probs.sum(-1), rtol=1e-5)
    assert (log_probs <= 0).all()
    for row, new in zip(log_probs[:, 0], [3, 5, 4, 2], strict=True):
        assert (row[:new] < 0).all()
        assert (row[new:] == 0).all()


def test_stop_words_end_and_bad_words_never_come(server: TritonServer) -> None:
    free = generated(
        ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs([[11, 12]], 8)), [[11, 12]]
    )[0]
    stop = ct.core_inputs([[11, 12]], 8, stop_words_list=ct.word_list([[299, 298], free[2:4]]))
    stopped = generated(ct.grpc_infer(server.grpc, "fastertransformer", stop), [[11, 12]])[0]
    assert stopped == free[:4]
    bad = ct.core_inputs([[11, 12]], 8, bad_words_list=ct.word_list([free[1:2], free[2:4]]))
    other = generated(ct.grpc_infer(server.grpc, "fastertransformer", bad), [[11, 12]])[0]
    assert other[0] == free[0]
    assert free[1] not in other


def test_end_id_of_the_request_ends_and_fills(server: TritonServer) -> None:
    free = generated(
        ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs([[11, 12]], 8)), [[11, 12]]
    )[0]
    end = free[3]
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs([[11, 12]], 8, end_id=end))
    count = free.index(end) + 1
    assert outputs["sequence_length"].tolist() == [[count]]
    assert outputs["output_ids"][0, 0, 2:].tolist() == free[:count] + [end] * (8 - count)


def test_empty_prompts_begin_with_the_start_id(server: TritonServer, llama: Path) -> None:
    no_width = ct.core_inputs([[], []], 5, start_id=[BOS_ID, 77])
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", no_width)
    assert outputs["output_ids"].shape == (2, 1, 5)
    assert outputs["input_sequence_lengths"].tolist() == [[0], [0]]
    assert generated(outputs, [[], []]) == [greedy(llama, [BOS_ID], 5), greedy(llama, [77], 5)]
    mixed = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs([[11, 12], []], 5))
    assert generated(mixed, [[11, 12], []]) == [greedy(llama, [11, 12], 5), greedy(llama, [BOS_ID], 5)]


def test_a_short_request_overtakes_a_long_one(server: TritonServer) -> None:
    """One instance, not decoupled, has many requests in flight."""
    prompts = [[11, 12, 13]]

    def ask(new: int) -> list[int]:
        outputs = ct.grpc_infer(server.grpc, "gpt", ct.core_inputs(prompts, new, min_length=new))
        assert outputs["sequence_length"].tolist() == [[3 + new]]
        return outputs["output_ids"][0, 0].tolist()

    ended: list[object] = []
    with grpcclient.InferenceServerClient(server.grpc) as client:
        inputs = ct.tensors(grpcclient, ct.core_inputs(prompts, LONG, min_length=LONG))
        long = client.async_infer("gpt", inputs, lambda _result, error: ended.append(error))
        wait_for(lambda: server.observe("gpt2").num_running > 0, 60, "the long one runs")
        shorts = [ask(3), ask(4)]
        assert ended == []
        long.cancel()
    assert shorts == [ask(3), ask(4)]


def test_many_requests_at_a_time_equal_one_at_a_time(server: TritonServer) -> None:
    def ask(i: int) -> list[list[int]]:
        arrays = ct.core_inputs([[i + 3, i + 4]], 5 + i % 7, random_seed=i, runtime_top_k=20)
        return generated(ct.grpc_infer(server.grpc, "fastertransformer", arrays), [[0, 0]])

    alone = [ask(i) for i in range(24)]
    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask, range(24))) == alone
