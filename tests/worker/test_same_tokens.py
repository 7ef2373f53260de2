# SPDX-License-Identifier: BSD-3-Clause
"""A request's tokens depend on the request alone: not on neighbours, chunks, the cache or the ranks."""

from pathlib import Path

import pytest
import torch
from decided import decided
from engine_runs import BLOCK_SIZE, MAX_LEN, VOCAB_SIZE, ask, mixed_requests, running_engine, tokens_of
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fastertransformer.messages import Request, SamplingParams, token_ids

SIZES = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}


def build(family: str) -> torch.nn.Module:
    """Seeded, and with weights large enough that greedy tokens are not all the same."""
    torch.manual_seed(3)
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=VOCAB_SIZE, n_embd=64, n_layer=4, n_head=4, n_positions=MAX_LEN, eos_token_id=0
        )
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=VOCAB_SIZE,
            num_key_value_heads=2,
            max_position_embeddings=MAX_LEN,
            eos_token_id=0,
            **SIZES,
        )
        model = LlamaForCausalLM(config)
    return decided(model)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def case(request, tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    model = build(request.param)
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def alone(case) -> dict[int, list[int]]:
    """Every request on an engine that does nothing else, one step at a time, nothing reused."""
    with running_engine(case[1], depth=0, reuse=False) as client:
        answers = {}
        for request in mixed_requests():
            answers |= tokens_of(client, [request])
    assert len({tuple(tokens) for tokens in answers.values()}) > 20, "the requests do not tell much apart"
    return answers


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({"depth": 0}, id="together"),
        pytest.param({"depth": 1}, id="overlapped"),
        pytest.param({"depth": 2, "max_num_seqs": 8, "max_num_batched_tokens": 11}, id="chunked"),
        pytest.param({"max_tokens": 256, "depth": 1}, id="preempted"),
        pytest.param({"max_tokens": 256, "depth": 0, "reuse": False}, id="preempted-no-reuse"),
        pytest.param({"disable_kernels": ("paged_attention", "skinny_linear", "rms_norm")}, id="definitions"),
        pytest.param({"device": "cuda"}, id="gpu", marks=pytest.mark.gpu),
        pytest.param(
            {"device": "cuda", "max_num_seqs": 8, "max_num_batched_tokens": 11},
            id="gpu-chunked",
            marks=pytest.mark.gpu,
        ),
        pytest.param({"device": "cuda", "max_tokens": 256}, id="gpu-preempted", marks=pytest.mark.gpu),
        pytest.param({"tp": 2}, id="tp2"),
        pytest.param({"tp": 2, "max_num_seqs": 8, "max_num_batched_tokens": 11}, id="tp2-chunked"),
        pytest.param({"pp": 2}, id="pp2"),
        pytest.param({"tp": 2, "pp": 2, "max_tokens": 512, "max_num_batched_tokens": 70}, id="tp2-pp2"),
    ],
)
def test_same_tokens(case, alone, engine):
    with running_engine(case[1], **engine) as client:
        answers, stats = ask(client, mixed_requests())
        again, _ = ask(client, mixed_requests())  # now the prompts lie in the cache
    assert {number: answer.tokens for number, answer in answers.items()} == alone
    assert {number: answer.tokens for number, answer in again.items()} == alone
    assert stats.num_free_blocks == stats.num_total_blocks
    if engine.get("max_tokens") == 256:
        assert stats.num_preemptions > 0, "the cache was too large for what this case is about"


def test_prefix_hit(case, alone):
    request = mixed_requests()[3]
    full_blocks = (len(request.prompt) - 1) // BLOCK_SIZE * BLOCK_SIZE  # the last token is always computed
    assert full_blocks == 56
    with running_engine(case[1]) as client:
        for hits in (0, full_blocks):
            answers, stats = ask(client, [request])
            assert stats.num_prefix_hit_tokens == hits
            assert answers[3].tokens == alone[3]


def test_greedy_equals_transformers(case):
    reference, folder = case
    prompts = [[5, 17, 93, 4], [1], list(range(60, 100))]
    requests = [
        Request(number, token_ids(prompt), SamplingParams(max_tokens=64, end_ids=(), logprobs=True))
        for number, prompt in enumerate(prompts)
    ]
    with running_engine(folder) as client:
        answers, _ = ask(client, requests)
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        expected = reference.generate(
            ids, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert answers[number].tokens == expected[0, len(prompt) :].tolist()
        with torch.no_grad():
            distribution = reference(expected).logits[0].log_softmax(-1)
        new = expected[0, len(prompt) :]
        logprobs = distribution[len(prompt) - 1 : -1].gather(1, new[:, None])[:, 0]
        assert torch.allclose(torch.tensor(answers[number].logprobs), logprobs, atol=1e-4)
