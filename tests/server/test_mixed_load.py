# SPDX-License-Identifier: BSD-3-Clause
"""Many different requests at a time: each gets what it gets alone."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import client_tools as ct
import numpy as np
from tiny_models import VOCAB_SIZE
from triton_process import TritonServer


def mixed_request(number: int) -> ct.Arrays:
    source = random.Random(number)
    prompts = [
        [source.randrange(3, VOCAB_SIZE) for _ in range(source.randrange(1, 40))]
        for _ in range(1 + number % 3)
    ]
    kinds: list[dict[str, Any]] = [
        {},
        {"runtime_top_k": 40, "temperature": 1.5, "is_return_log_probs": True},
        {"runtime_top_p": 0.95, "top_p_decay": 0.9, "top_p_min": 0.3, "top_p_reset_ids": 17},
        {"repetition_penalty": 1.3, "min_length": 5},
        {"presence_penalty": 0.5, "frequency_penalty": 0.3, "runtime_top_k": 100},
        {"no_repeat_ngram_size": 2, "logit_bias": np.array([[[20, 3.0]]] * len(prompts), np.float32)},
        {"num_return_sequences": 3, "runtime_top_k": 20},
        {"is_return_context_embeddings": True, "min_p": 0.01},
        {"beam_width": 3, "len_penalty": 1.0, "is_return_log_probs": True},
        {"beam_width": 2, "beam_search_diversity_rate": 0.5, "repetition_penalty": 1.2, "min_length": 3},
        {"beam_width": 4, "len_penalty": -1.0, "early_stopping": True, "no_repeat_ngram_size": 2},
    ]
    words = [[source.randrange(VOCAB_SIZE)] for _ in range(30)]
    new = [source.randrange(1, 30) for _ in prompts]
    more = {
        "stop_words_list": ct.word_list(words, len(prompts)),
        "bad_words_list": ct.word_list(words[:3], len(prompts)),
    }
    return ct.core_inputs(prompts, new, random_seed=number, **more, **kinds[number % len(kinds)])


def test_64_different_requests_at_once_equal_those_that_are_alone(server: TritonServer) -> None:
    def once(number: int) -> ct.Arrays:
        return ct.grpc_infer(server.grpc, "fastertransformer", mixed_request(number))

    def stream(number: int) -> ct.Arrays:
        return ct.stream_infer(server.grpc, "streaming", mixed_request(number))[-1]

    alone = [once(number) for number in range(64)]
    assert len({str(outputs["output_ids"].tolist()) for outputs in alone}) == 64
    with ThreadPoolExecutor(64) as pool:
        for many in (pool.map(once, range(64)), pool.map(stream, range(64))):
            for outputs, expected in zip(many, alone, strict=True):
                assert outputs.keys() == expected.keys()
                for name, array in outputs.items():
                    np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-3, err_msg=name)
