# SPDX-License-Identifier: BSD-3-Clause
"""Adapters of FasterTransformer's T5 in flight: drawn tokens have the probabilities of the reference."""

import random
from pathlib import Path

import pytest
import torch
from engine_runs import ask, running_engine
from megatron_t5 import START_ID, Reference

from fastertransformer.messages import Request, SamplingParams, token_ids

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["pre", "post"])
def case(request, tmp_path_factory) -> tuple[Path, Reference]:
    reference = Reference(absolute=False, gated=True, adapters={"encoder": "pre", "decoder": request.param})
    reference.logits([5], [START_ID])
    return reference.write(tmp_path_factory.mktemp("adapters"), 2), reference


def requests() -> list[Request]:
    """Drawn, since the likeliest tokens of random weights are few."""
    source = random.Random(3)
    return [
        Request(
            number,
            token_ids((START_ID,)),
            SamplingParams(max_tokens=16, top_k=64, seed=number, logprobs=True),
            encoder_tokens=token_ids([source.randrange(5, 90) for _ in range(source.randrange(1, 40))]),
        )
        for number in range(10)
    ]


@pytest.mark.parametrize(
    "changes",
    [{}, {"tp": 2}, {"pp": 2}, pytest.param({"device": "cuda"}, marks=pytest.mark.gpu)],
    ids=lambda changes: "-".join(changes) or "one rank",
)
def test_tokens_have_the_probabilities_of_the_reference(case, changes):
    place, reference = case
    with running_engine(place, model_type="T5", **changes) as client:
        answers, _ = ask(client, requests())
    for request in requests():
        tokens, found = answers[request.id].tokens, answers[request.id].logprobs
        logits = reference.logits(list(request.encoder_tokens), [START_ID, *tokens[:-1]])
        expected = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(found), expected, atol=TOLERANCE)
