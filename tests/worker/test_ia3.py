# SPDX-License-Identifier: BSD-3-Clause
"""IA3 tasks in flight: each request gets what its task gives, in the company of others and of none."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import BLOCK_SIZE, ask, running_engine
from fastertransformer_stacks import write, write_ia3
from tiny_encoder_decoders import make

from fastertransformer.messages import (
    EncodeRequest,
    FinishReason,
    Request,
    SamplingParams,
    token_ids,
)

NUM_TASKS = 3
END_ID = 1
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> tuple[Path, list[torch.nn.Module]]:
    """(checkpoint, the model without a task and with each)"""
    folder = tmp_path_factory.mktemp("ia3")
    model = make("t5", folder / "hf")
    place = write(folder / "own", model, 2, structure={"ia3_num_tasks": NUM_TASKS})
    return place, [model, *write_ia3(place, model, 2, NUM_TASKS)]


def inputs(count: int) -> list[tuple[tuple[int, ...], int | None]]:
    """(tokens, task), some with the tokens of their neighbour"""
    source, found = random.Random(5), list[tuple[tuple[int, ...], int | None]]()
    for number in range(count):
        tokens = tuple(source.randrange(3, 90) for _ in range(source.randrange(1, 50)))
        tokens = found[-1][0] if number % 2 else tokens
        found.append((tokens, (None, 0, 2, 1, 0)[number % 5]))
    return found


def requests() -> list[Request]:
    return [
        Request(
            number,
            token_ids((0,)),
            SamplingParams(max_tokens=12 + number, beam_width=3 if number % 4 == 3 else 1),
            encoder_tokens=token_ids(tokens),
            ia3_task=task,
        )
        for number, (tokens, task) in enumerate(inputs(20))
    ]


def generated(model: torch.nn.Module, request: Request) -> list[int]:
    """Its best answer by transformers."""
    row = model.generate(
        torch.tensor([request.encoder_tokens]),
        num_beams=request.sampling.beam_width,
        max_new_tokens=request.sampling.max_tokens,
        length_penalty=0.0,
        do_sample=False,
        use_cache=False,  # whose length is wrong where the stacks have different ones
    )[0, 1:].tolist()
    return row[: row.index(END_ID) + 1] if END_ID in row else row


@pytest.fixture(scope="module")
def expected(case) -> dict[int, list[int]]:
    _, models = case
    return {request.id: generated(of_task(models, request.ia3_task), request) for request in requests()}


def of_task(models: list[torch.nn.Module], task: int | None) -> torch.nn.Module:
    return models[0 if task is None else 1 + task]


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 40 * BLOCK_SIZE},  # sequences give their blocks back and are encoded again
        {"tp": 2},
        {"pp": 2},
        pytest.param({"device": "cuda"}, marks=pytest.mark.gpu),
    ],
    ids="-".join,
)
def test_each_request_gets_the_tokens_of_its_task(case, expected, changes):
    place, _ = case
    beyond = Request(
        50, token_ids((0,)), SamplingParams(max_tokens=3), encoder_tokens=token_ids((5,)), ia3_task=NUM_TASKS
    )
    negative = Request(
        51, token_ids((0,)), SamplingParams(max_tokens=3), encoder_tokens=token_ids((5,)), ia3_task=-1
    )
    with running_engine(place, **changes) as client:
        assert client.info.num_ia3_tasks == NUM_TASKS
        answers, stats = ask(client, [beyond, *requests(), negative])
    assert (stats.num_preemptions > 0) == ("max_tokens" in changes)
    for request in (beyond, negative):
        allowed = f"ia3_task is {request.ia3_task}; the model has the IA3 tasks [0, 3)"
        assert allowed in answers[request.id].last.error
    for request in requests():
        answer = answers[request.id]
        tokens = list(answer.last.beams[0].tokens) if answer.last.beams else answer.tokens
        assert tokens == expected[request.id]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_encoder_alone(case, device):
    place, models = case
    asked = [
        EncodeRequest(id=number, tokens=token_ids(tokens), outputs=("last_hidden_state",), ia3_task=task)
        for number, (tokens, task) in enumerate(inputs(12))
    ]
    with running_engine(place, model_type="T5-Encoder", device=device) as client:
        assert client.info.num_ia3_tasks == NUM_TASKS
        beyond = EncodeRequest(id=50, tokens=token_ids((5,)), outputs=(), ia3_task=7)
        answers, _ = ask(client, [*asked, beyond])
    assert "ia3_task is 7; the model has the IA3 tasks [0, 3)" in answers[50].last.error
    for request in asked:
        last = answers[request.id].last
        assert last.finish_reason is FinishReason.ENCODED
        found = last.arrays["last_hidden_state"]
        encoder = of_task(models, request.ia3_task).encoder
        with torch.no_grad():
            states = encoder(torch.tensor(request.tokens)[None]).last_hidden_state[0].numpy()
        assert np.abs(found - states).max() < TOLERANCE
