# SPDX-License-Identifier: BSD-3-Clause
"""Beam search in a real engine: the beams of transformers, alone or among other requests, on any ranks."""

import random
from pathlib import Path

import pytest
import torch
from decided import decided
from engine_runs import MAX_LEN, VOCAB_SIZE, Answer, ask, mixed_requests, running_engine
from test_same_tokens import SIZES, build
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from fastertransformer.messages import FinishReason, Request, SamplingParams, token_ids

END_ID = 0
PROMPTS = [[5, 17, 93, 4], [1], list(range(60, 85))]
MANY = tuple(range(12))
SEARCHES = [
    {"beam_width": 2},
    {"beam_width": 4, "length_penalty": 1.0},
    {"beam_width": 3, "length_penalty": 2.0, "early_stopping": True, "end_ids": MANY},
    {"beam_width": 5, "length_penalty": -0.5, "end_ids": MANY},
    {"beam_width": 4, "length_penalty": 1.0, "end_ids": MANY},
    {"beam_width": 4, "length_penalty": 1.0, "repetition_penalty": 1.3, "min_length": 9, "end_ids": MANY},
    {"beam_width": 3, "length_penalty": 0.6, "bad_words": ((7,), (8, 9)), "early_stopping": True},
    {"beam_width": 17, "length_penalty": 1.0},
]


def searches() -> list[Request]:
    """Every search with every prompt."""
    pairs = [(prompt, search) for prompt in PROMPTS for search in SEARCHES]
    return [
        Request(
            100 + number,
            token_ids(prompt),
            SamplingParams(max_tokens=12 + number % 9, logprobs=True, **search),
        )
        for number, (prompt, search) in enumerate(pairs)
    ]


def make(family: str, folder: Path) -> tuple[torch.nn.Module, Path]:
    model = build(family) if family != "gpt_neox" else build_neox()
    model.save_pretrained(folder)
    return model, folder


def build_neox() -> torch.nn.Module:
    torch.manual_seed(3)
    config = GPTNeoXConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=MAX_LEN,
        eos_token_id=END_ID,
        hidden_act="gelu_new",
        **SIZES,
    )
    model = GPTNeoXForCausalLM(config)
    return decided(model)


def generated(model: torch.nn.Module, request: Request) -> list[list[int]]:
    """What transformers generates, without what fills the rows up."""
    sampling = request.sampling
    ends = list(sampling.end_ids or (END_ID,))
    more = {"bad_words_ids": [list(word) for word in sampling.bad_words]} if sampling.bad_words else {}
    rows = model.generate(
        torch.tensor([request.prompt]),
        num_beams=sampling.beam_width,
        num_return_sequences=sampling.beam_width,
        max_new_tokens=sampling.max_tokens,
        min_new_tokens=max(0, sampling.min_length - 1),
        length_penalty=sampling.length_penalty,
        early_stopping=sampling.early_stopping,
        repetition_penalty=sampling.repetition_penalty,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=VOCAB_SIZE - 1,
        **more,
    )[:, len(request.prompt) :].tolist()
    return [_until_end(row, ends) for row in rows]


def _until_end(row: list[int], ends: list[int]) -> list[int]:
    places = [place for place, token in enumerate(row) if token in ends]
    return row[: places[0] + 1] if places else row


def beams_of(answer: Answer) -> list[list[int]]:
    return [list(beam.tokens) for beam in answer.last.beams]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    return make("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def expected(llama) -> dict[int, list[list[int]]]:
    return {request.id: generated(llama[0], request) for request in searches()}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "bloom", "mixtral"])
def test_beams_equal_transformers(family, tmp_path):
    model, folder = make(family, tmp_path)
    with running_engine(folder) as client:
        answers, _ = ask(client, searches()[::2])
    for request in searches()[::2]:
        assert beams_of(answers[request.id]) == generated(model, request), request.sampling


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({"depth": 0}, id="together"),
        pytest.param({"depth": 1, "max_num_seqs": 20, "max_num_batched_tokens": 11}, id="chunked"),
        pytest.param({"max_tokens": 440, "depth": 1}, id="preempted"),
        pytest.param({"device": "cuda"}, id="gpu", marks=pytest.mark.gpu),
        pytest.param({"device": "cuda", "max_tokens": 440}, id="gpu-preempted", marks=pytest.mark.gpu),
        pytest.param({"tp": 2}, id="tp2"),
        pytest.param({"pp": 2}, id="pp2"),
    ],
)
def test_beams_among_other_requests_equal_transformers(llama, expected, engine):
    requests = searches() + mixed_requests()
    random.Random(1).shuffle(requests)
    with running_engine(llama[1], **engine) as client:
        answers, stats = ask(client, requests)
    assert stats.num_free_blocks == stats.num_total_blocks
    assert {number: beams_of(answers[number]) for number in expected} == expected
    if "max_tokens" in engine:
        assert stats.num_preemptions > 0, "the cache was too large for what this case is about"


def test_log_probabilities_are_those_of_the_tokens(llama):
    model, folder = llama
    request = searches()[3]
    with running_engine(folder) as client:
        beams = ask(client, [request])[0][request.id].last.beams
    for beam in beams:
        ids = torch.tensor([[*request.prompt, *beam.tokens]])
        with torch.no_grad():
            distribution = model(ids).logits[0].log_softmax(-1)[len(request.prompt) - 1 : -1]
        expected = distribution.gather(1, torch.tensor(beam.tokens)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(beam.logprobs), expected, atol=1e-4)
        assert beam.cum_logprob == pytest.approx(expected.sum().item(), abs=1e-3)


@pytest.mark.parametrize("engine", [{}, {"tp": 2}, {"pp": 2}], ids=["1", "tp2", "pp2"])
def test_fastertransformers_rule_keeps_the_best_of_ended_and_live_beams(llama, engine):
    model, folder = llama
    request = Request(
        0, token_ids((5, 17, 93, 4)), SamplingParams(max_tokens=14, beam_width=4, temperature=0.7)
    )
    with running_engine(folder, beam_search_rule="fastertransformer", **engine) as client:
        answers, _ = ask(client, [request, *mixed_requests()[1:]])
    expected = survivors(model, list(request.prompt), 4, 14, 0.7)
    assert beams_of(answers[0]) == expected
    assert answers[0].last.finish_reason is not FinishReason.ERROR


@torch.no_grad()
def survivors(
    model: torch.nn.Module, prompt: list[int], width: int, new: int, temperature: float
) -> list[list[int]]:
    """The rule by its definition: whole sequences through the model, ended ones stay as they are."""
    beams = [(0.0, prompt)]
    for _ in range(new):
        candidates = []
        for score, tokens in beams:
            if len(tokens) > len(prompt) and tokens[-1] == END_ID:
                candidates.append((score, tokens))
                continue
            logits = model(torch.tensor([tokens])).logits[0, -1] / (temperature + 1e-6)
            values, places = logits.log_softmax(-1).topk(width)
            pairs = zip(values.tolist(), places.tolist(), strict=True)
            candidates += [(score + value, [*tokens, place]) for value, place in pairs]
        beams = sorted(candidates, key=lambda beam: -beam[0])[:width]
    return [tokens[len(prompt) :] for _, tokens in beams]
