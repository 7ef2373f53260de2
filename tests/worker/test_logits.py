# SPDX-License-Identifier: BSD-3-Clause
"""Logits of prompts and new tokens, and sums of hidden states, are those of transformers, on every mesh."""

from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import VOCAB_SIZE, Answer, ask, mixed_requests, running_engine
from tiny_llama import write_llama
from transformers import LlamaForCausalLM

from fastertransformer.messages import FinishReason, Request, SamplingParams, token_ids

TIGHT = {"max_num_batched_tokens": 7, "max_num_seqs": 6, "max_tokens": 160, "depth": 1}
CASES = [
    pytest.param({}, id="one"),
    pytest.param(TIGHT, id="chunked-preempted"),
    pytest.param({"tp": 2}, id="tp2"),
    pytest.param({"tp": 2, "pp": 2, "max_num_batched_tokens": 16}, id="tp2-pp2"),
    pytest.param({"device": "cuda"}, id="gpu", marks=pytest.mark.gpu),
    pytest.param({"device": "cuda", **TIGHT}, id="gpu-chunked-preempted", marks=pytest.mark.gpu),
]
ODD = {"temperature": 0.6, "top_k": 30, "seed": 5, "repetition_penalty": 1.3, "bad_words": ((7,),)}
ODD_ONES = {"logit_bias": ((3, 4.0),), "logprobs": True, "min_length": 9}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def model(checkpoint) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(checkpoint).eval()


def request(number: int, prompt: list[int], sampling: dict[str, object], wishes: str) -> Request:
    return Request(
        number,
        token_ids(prompt),
        SamplingParams(max_tokens=12, end_ids=(), **sampling),
        wants_context="hidden" in wishes,
        wants_context_logits="context" in wishes,
        wants_logits="generation" in wishes,
    )


def wishing_requests() -> list[Request]:
    """Equal prompts too, which would find each other's blocks; raw logits do not depend on sampling."""
    long, short = [(7 * i) % VOCAB_SIZE for i in range(40)], [5, 17, 93]
    return [
        request(100, long, {}, "context generation hidden"),
        request(101, long, ODD, "generation"),
        request(102, long, ODD | ODD_ONES, "context generation"),
        request(103, short, {"temperature": 0.7, "top_p": 0.9}, "context"),
        request(104, short[:1], {}, "generation context"),
        request(105, short, {}, "hidden"),
    ]


def expected(model: LlamaForCausalLM, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and the hidden states before the last norm."""
    seen: list[torch.Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    with hook, torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy(), seen[0].numpy()


def assert_answer(answer: Answer, wanted: Request, model: LlamaForCausalLM) -> None:
    prompt = list(wanted.prompt)
    logits, hidden = expected(model, prompt + answer.tokens)
    of_prompt = logits[: len(prompt)] if wanted.wants_context_logits else logits[:0]
    of_tokens = logits[len(prompt) - 1 : -1] if wanted.wants_logits else logits[:0]
    for got, right in ((answer.context_logits, of_prompt), (answer.logits, of_tokens)):
        rows = np.frombuffer(got, np.float32).reshape(-1, VOCAB_SIZE)
        np.testing.assert_allclose(rows, right, rtol=2e-4, atol=2e-4)
    sums = hidden[: len(prompt)].sum(0) if wanted.wants_context else hidden[0, :0]
    np.testing.assert_allclose(np.frombuffer(answer.context, np.float32), sums, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", CASES)
def test_logits_alone_and_among_others(checkpoint, model, engine):
    """The second time blocks of the prompts are in the cache, and others run that want no logits."""
    wishing, others = wishing_requests(), mixed_requests()[:10]
    with running_engine(checkpoint, **engine) as client:
        plain, _ = ask(client, others)
        alone, _ = ask(client, wishing[:1])
        together, stats = ask(client, [*others[:5], *wishing, *others[5:]])
    assert_answer(alone[100], wishing[0], model)
    for wanted in wishing:
        assert len(together[wanted.id].tokens) == 12
        assert_answer(together[wanted.id], wanted, model)
    assert together[100].tokens == alone[100].tokens
    for other in others:
        assert together[other.id].tokens == plain[other.id].tokens
        assert together[other.id].logits == together[other.id].context_logits == b""
    assert stats.num_free_blocks == stats.num_total_blocks
    if engine.get("max_tokens") == 160:
        assert stats.num_preemptions > 0


def test_beams_have_no_logits(checkpoint):
    requests = [
        request(number, [5], {"beam_width": 2}, wish) for number, wish in enumerate(("context", "generation"))
    ]
    with running_engine(checkpoint) as client:
        answers, _ = ask(client, requests)
    for number, field in enumerate(("wants_context_logits", "wants_logits")):
        assert answers[number].last.finish_reason is FinishReason.ERROR
        assert f"beam_width is 2; allowed is 1 with {field}" in answers[number].last.error
