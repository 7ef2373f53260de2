# SPDX-License-Identifier: BSD-3-Clause
"""Logits in TensorRT-LLM's contract on a real server: those of transformers, at once and in a stream."""

from pathlib import Path

import client_tools as ct
import numpy as np
import pytest
import torch
from tiny_models import VOCAB_SIZE
from transformers import LlamaForCausalLM
from triton_process import TritonServer

from fastertransformer.errors import InvalidRequest
from fastertransformer.messages import EngineInfo
from fastertransformer.server.contracts import tensorrt_llm
from fastertransformer.server.contracts.core import CoreContract

PROMPTS = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31]]
NEW = [6, 4, 9]
inputs = ct.tensorrt_llm_inputs


def final_state(server: TritonServer, arrays: ct.Arrays) -> ct.Arrays:
    (response,) = ct.stream_infer(server.grpc, "tensorrt_llm", arrays)
    return response


WISHES = {"return_context_logits": True, "return_generation_logits": True}


def assert_logits(response: ct.Arrays, model: LlamaForCausalLM) -> None:
    """Those of a response without the prompts."""
    context, generation = response["context_logits"], response["generation_logits"]
    assert context.dtype == generation.dtype == np.float32
    assert context.shape == (3, max(map(len, PROMPTS)), VOCAB_SIZE)
    assert generation.shape == (*response["output_ids"].shape, VOCAB_SIZE)
    for row, prompt in enumerate(PROMPTS):
        count = response["sequence_length"][row, 0]
        tokens = response["output_ids"][row, 0, :count].tolist()
        with torch.no_grad():
            expected = model(torch.tensor([prompt + tokens])).logits[0].numpy()
        got = np.concatenate([context[row, : len(prompt)], generation[row, 0, 1:count]])
        np.testing.assert_allclose(got, expected[:-1], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(generation[row, 0, 0], expected[len(prompt) - 1], rtol=1e-3, atol=1e-3)
        assert not context[row, len(prompt) :].any()
        assert not generation[row, 0, count:].any()


def test_logits_of_prompts_and_of_new_tokens(server: TritonServer, llama: Path) -> None:
    """Raw ones, whatever the sampling; in a stream those of the new tokens, and the prompts' once."""
    model = LlamaForCausalLM.from_pretrained(llama).eval()
    sampling = {
        "temperature": 0.7,
        "repetition_penalty": 1.2,
        "min_tokens": 4,
        "exclude_input_in_output": True,
    }
    arrays = inputs(PROMPTS, NEW, **sampling)
    whole = final_state(server, arrays | inputs(PROMPTS, NEW, **WISHES))
    assert_logits(whole, model)
    pieces = ct.stream_infer(
        server.grpc, "tensorrt_llm", arrays | inputs(PROMPTS, NEW, streaming=True, **WISHES)
    )
    (context,) = [piece["context_logits"] for piece in pieces if "context_logits" in piece]
    np.testing.assert_allclose(context, whole["context_logits"], rtol=1e-3, atol=1e-3)
    for row in range(3):
        parts = [piece["generation_logits"][row, 0, : piece["sequence_length"][row, 0]] for piece in pieces]
        joined = np.concatenate(parts)
        np.testing.assert_allclose(
            joined, whole["generation_logits"][row, 0, : len(joined)], rtol=1e-3, atol=1e-3
        )
        assert len(joined) == whole["sequence_length"][row, 0]
    plain = final_state(server, arrays)
    assert plain["output_ids"].tolist() == whole["output_ids"].tolist()
    assert not {"context_logits", "generation_logits"} & set(plain)


def test_logits_of_samples(server: TritonServer) -> None:
    """The prompt's once for all of them."""
    more = {"num_return_sequences": 2, "runtime_top_p": 0.9, "temperature": 1.5}
    response = final_state(server, inputs([PROMPTS[0]], 4, min_tokens=4, **more, **WISHES))
    context, generation = response["context_logits"], response["generation_logits"]
    assert context.shape == (1, len(PROMPTS[0]), VOCAB_SIZE)
    assert generation.shape == (1, 2, 4, VOCAB_SIZE)
    for sample in range(2):
        np.testing.assert_allclose(generation[0, sample, 0], context[0, -1], rtol=1e-3, atol=1e-3)


def test_logits_that_are_too_many_are_refused_before_anything_is_computed() -> None:
    config = {
        "input": [{"name": row.name, "data_type": row.data_type} for row in tensorrt_llm.INPUTS],
        "output": [],
    }
    contract = CoreContract(config, tensorrt_llm.TENSORRT_LLM)
    info = EngineInfo(
        model_type="llama", vocab_size=1 << 17, max_model_len=2048, start_id=1, end_ids=(2,), plan=""
    )
    fits = inputs([[5] * 128] * 4, 128, **WISHES)
    assert len(contract.open(fits, info).rows) == 4
    too_long = (
        r"return_context_logits asks for 4 x 129 x 131072 logits, 270532608 bytes; allowed are 268435456"
    )
    with pytest.raises(InvalidRequest, match=too_long):
        contract.open(inputs([[5] * 129, *[[5]] * 3], 1, return_context_logits=True), info)
    with pytest.raises(InvalidRequest, match=r"return_generation_logits asks for 10 x 52 x 131072 logits"):
        contract.open(inputs([[5]] * 5, 52, return_generation_logits=True, num_return_sequences=2), info)
