# SPDX-License-Identifier: BSD-3-Clause
"""On a GPU in 16 bits, greedy tokens are the same for a request alone and among 63 others, bit for bit.

Steps of at most 64 tokens: then every product is computed by the kernel whose sums do not depend on the
number of rows. (docs/performance.md, "Batch invariance")
"""

import random
from pathlib import Path

import pytest
import torch
from decided import decided
from engine_runs import MAX_LEN, VOCAB_SIZE, running_engine, tokens_of
from transformers import LlamaConfig, LlamaForCausalLM

from fastertransformer.messages import Request, SamplingParams, token_ids

NUM_REQUESTS = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LEN,
        eos_token_id=0,
    )
    model = decided(LlamaForCausalLM(config), std=0.1)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return folder


def requests() -> list[Request]:
    source = random.Random(6)
    return [
        Request(
            number,
            token_ids([source.randrange(1, VOCAB_SIZE) for _ in range(source.randrange(1, 60))]),
            SamplingParams(max_tokens=48, end_ids=()),
        )
        for number in range(NUM_REQUESTS)
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("data_type", ["bf16", "fp16"])
def test_alone_and_among_others(checkpoint, data_type):
    config = {"device": "cuda", "data_type": data_type, "max_num_batched_tokens": NUM_REQUESTS}
    with running_engine(checkpoint, max_tokens=16384, reuse=False, **config) as client:
        together = tokens_of(client, requests())
        alone = {
            number: tokens
            for request in requests()
            for number, tokens in tokens_of(client, [request]).items()
        }
    assert len({tuple(tokens) for tokens in alone.values()}) > NUM_REQUESTS / 2, (
        "the requests tell too little"
    )
    assert together == alone
