# SPDX-License-Identifier: BSD-3-Clause
"""Models with experts on a GPU: what the CPU finds, and what a request finds alone."""

import random
from pathlib import Path

import pytest
import torch
from decided import decided
from engine_runs import MAX_LEN, VOCAB_SIZE, running_engine, tokens_of
from transformers import MixtralConfig, MixtralForCausalLM

from fastertransformer.messages import Request, SamplingParams, token_ids

pytestmark = pytest.mark.gpu

NUM_REQUESTS = 24
INVARIANT = {"max_num_batched_tokens": 48, "max_num_seqs": 48}
"""Few rows for every product: of each of the 6 experts, 2 of which a token takes, at most 16 on average."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(4)
    config = MixtralConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=6,
        max_position_embeddings=MAX_LEN,
        eos_token_id=0,
    )
    model = decided(MixtralForCausalLM(config))
    folder = tmp_path_factory.mktemp("mixtral")
    model.save_pretrained(folder)
    return folder


def requests(longest: int) -> list[Request]:
    source = random.Random(6)
    prompts = [
        tuple(source.randrange(VOCAB_SIZE) for _ in range(source.randrange(longest) + 1))
        for _ in range(NUM_REQUESTS)
    ]
    return [
        Request(number, token_ids(prompt), SamplingParams(max_tokens=20))
        for number, prompt in enumerate(prompts)
    ]


def test_tokens_are_those_of_the_cpu(checkpoint):
    """In float32, where experts come one after the other."""
    with running_engine(checkpoint) as client:
        expected = tokens_of(client, requests(60))
    with running_engine(checkpoint, device="cuda") as client:
        assert tokens_of(client, requests(60)) == expected


@pytest.mark.parametrize("data_type", ["bf16", "fp16"])
def test_tokens_alone_and_among_others(checkpoint, data_type):
    """In grouped products and graphs. Prompts of one token are not cut where others leave no more room."""
    with running_engine(checkpoint, device="cuda", data_type=data_type, **INVARIANT) as client:
        together = tokens_of(client, requests(1))
        alone = {
            number: tokens
            for request in requests(1)
            for number, tokens in tokens_of(client, [request]).items()
        }
    assert alone == together
    assert len({tuple(tokens) for tokens in together.values()}) > NUM_REQUESTS // 2
