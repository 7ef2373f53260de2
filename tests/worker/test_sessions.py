# SPDX-License-Identifier: BSD-3-Clause
"""Conversations with a real engine: every turn gets what one long prompt gets, on every mesh."""

import time
from pathlib import Path

import pytest
import torch
from engine_runs import BLOCK_SIZE, VOCAB_SIZE, ask, running_engine, tokens_of
from msgspec.structs import replace
from transformers import LlamaConfig, LlamaForCausalLM

from fastertransformer.messages import Request, SamplingParams, Session, token_ids
from fastertransformer.server.client import EngineClient

TURNS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21], [30, 31, 32]]
KINDS = [
    {},
    {"top_k": 20, "seed": 3},
    {"top_p": 0.9, "temperature": 0.8, "seed": 4, "repetition_penalty": 1.2},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=0,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def converse(client: EngineClient, new: int, others: list[Request] = ()) -> list[list[int]]:
    """What a conversation of each kind comes to; before its last turn `others` are served."""
    said: list[tuple[int, ...]] = [()] * len(KINDS)
    for step, prompt in enumerate(TURNS):
        is_last = step == len(TURNS) - 1
        if is_last and others:
            tokens_of(client, others)
        requests = [
            Request(
                number,
                token_ids((*said[number], *prompt)),
                SamplingParams(max_tokens=new, end_ids=(), **kind),
                Session(number, is_last),
            )
            for number, kind in enumerate(KINDS)
        ]
        answers = tokens_of(client, requests)
        said = [(*request.prompt, *answers[request.id]) for request in requests]
    return [list(tokens) for tokens in said]


def as_long_prompts(client: EngineClient, said: list[list[int]], new: int) -> list[list[int]]:
    """The same conversations with everything before their last answer as the prompt."""
    requests = [
        Request(number, token_ids(tokens[:-new]), SamplingParams(max_tokens=new, end_ids=(), **KINDS[number]))
        for number, tokens in enumerate(said)
    ]
    answers = tokens_of(client, requests)
    return [[*request.prompt, *answers[request.id]] for request in requests]


@pytest.mark.parametrize(
    ("tp", "pp", "device"),
    [
        (1, 1, "cpu"),
        (2, 1, "cpu"),
        (1, 2, "cpu"),
        pytest.param(1, 1, "cuda", marks=pytest.mark.gpu),
    ],
)
def test_turns_equal_one_long_prompt(checkpoint, tp, pp, device):
    with running_engine(checkpoint, tp=tp, pp=pp, reuse=False, device=device) as client:
        said = converse(client, 11)
        assert as_long_prompts(client, said, 11) == said
        stats = ask(client, [Request(0, token_ids((5,)), SamplingParams(max_tokens=1))])[1]
        assert stats.num_free_blocks == stats.num_total_blocks
    with running_engine(checkpoint, device=device) as client:
        assert as_long_prompts(client, said, 11) == said


@pytest.mark.parametrize("reuse", [False, True])
def test_blocks_that_others_took_are_computed_again(checkpoint, reuse):
    other = Request(9, token_ids(range(1, 100)), SamplingParams(max_tokens=20, end_ids=()))
    with running_engine(checkpoint, max_tokens=128, reuse=reuse) as client:
        before = converse(client, 7)
        after = converse(client, 7, others=[other])
        assert after == before == as_long_prompts(client, before, 7)


def with_memory(checkpoint: Path, prompt: list[int], new: int, memory_len: int) -> list[int]:
    """What transformers generates when a token sees the last memory_len // BLOCK_SIZE blocks."""
    model = LlamaForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    tokens = list(prompt)
    for _ in range(new):
        position = torch.arange(len(tokens))
        block = position // BLOCK_SIZE
        is_hidden = block[None] <= block[:, None] - memory_len // BLOCK_SIZE
        is_hidden |= position[None] > position[:, None]
        mask = torch.zeros(is_hidden.shape).masked_fill(is_hidden, torch.finfo(torch.float32).min)
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), attention_mask=mask[None, None]).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    ("tp", "pp", "device"),
    [(1, 1, "cpu"), (2, 1, "cpu"), (1, 2, "cpu"), pytest.param(1, 1, "cuda", marks=pytest.mark.gpu)],
)
def test_a_token_sees_as_far_as_the_memory_goes(checkpoint, tp, pp, device):
    memory_len, new, talk = 2 * BLOCK_SIZE + 3, 30, Session(1)
    prompt = [(7 * i) % VOCAB_SIZE for i in range(1, 44)]
    sampling = SamplingParams(max_tokens=new, end_ids=())
    expected = with_memory(checkpoint, prompt, new, memory_len)
    with running_engine(checkpoint, tp=tp, pp=pp, device=device, max_num_batched_tokens=19) as client:
        whole = Request(0, token_ids(prompt), sampling, memory_len=memory_len)
        all_seen = Request(1, token_ids(prompt), sampling)
        neighbours = [
            replace(request, id=2 + n, sampling=replace(sampling, **KINDS[n]))
            for n, request in enumerate([all_seen] * len(KINDS))
        ]
        answers = tokens_of(client, [whole, all_seen, *neighbours])
        assert answers[0] == expected != answers[1]
        # In two turns, of which the second finds the last blocks of the first.
        first = Request(0, token_ids(prompt[:30]), replace(sampling, max_tokens=1), talk, memory_len)
        _, stats = ask(client, [first])
        assert stats.num_total_blocks - stats.num_free_blocks <= memory_len // BLOCK_SIZE
        assert tokens_of(client, [replace(whole, session=talk)])[0] == expected


def free_blocks(client: EngineClient, session: Session | None = None) -> int:
    """How many are free beside those of sessions, once a request has ended; none means all."""
    stats = ask(
        client, [Request(0, token_ids((5, 6, 7)), SamplingParams(max_tokens=4, end_ids=()), session)]
    )[1]
    return stats.num_free_blocks - stats.num_total_blocks


def test_a_session_that_rests_gives_its_blocks_back(checkpoint):
    with running_engine(checkpoint, session_idle_s=0.5) as client:
        assert free_blocks(client, Session(0)) == -1
        deadline = time.monotonic() + 60
        while free_blocks(client) != 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_session_that_is_ended_gives_its_blocks_back(checkpoint):
    with running_engine(checkpoint) as client:
        for number in range(3):
            free_blocks(client, Session(number))
        assert free_blocks(client) == -3
        client.end_sessions([0, 2, 17])
        assert free_blocks(client) == -1
