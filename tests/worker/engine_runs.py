# SPDX-License-Identifier: BSD-3-Clause
"""Runs requests through a real engine process, and the requests that the tests compare."""

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks import RanksByCount

from fastertransformer.config import CacheConfig, EngineConfig, ParallelConfig
from fastertransformer.messages import EngineStats, Output, Request, SamplingParams, token_ids
from fastertransformer.server.client import EngineClient
from fastertransformer.server.launcher import Launcher

VOCAB_SIZE = 211
MAX_LEN = 128
BLOCK_SIZE = 8
DEADLINE_S = 100


RANKS = RanksByCount()


@contextlib.contextmanager
def running_engine(checkpoint: Path, **options: Any) -> Iterator[EngineClient]:
    """An engine without Triton, in processes that others were before; see `engine_config`.

    A hang ends the test by closing the connection.
    """
    config = engine_config(checkpoint, **options)
    if config.device != "cpu" or config.disable_kernels:  # memory of a GPU is kept, kernels are gone for good
        with launched_engine(checkpoint, **options) as client:
            yield client
        return
    client = RANKS.of(config.parallel.world_size).start(config, DEADLINE_S)
    with contextlib.closing(client), _ended_in_time(client):
        yield client


@contextlib.contextmanager
def launched_engine(checkpoint: Path, **options: Any) -> Iterator[EngineClient]:
    """An engine in processes of its own, started as the server does."""
    launcher = Launcher(engine_config(checkpoint, **options), start_timeout=DEADLINE_S)
    client = launcher.attach()
    try:
        with _ended_in_time(client):
            yield client
    finally:
        launcher.detach(client)


@contextlib.contextmanager
def _ended_in_time(client: EngineClient) -> Iterator[None]:
    watchdog = threading.Timer(DEADLINE_S, client.close)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def engine_config(
    checkpoint: Path,
    tp: int = 1,
    pp: int = 1,
    max_tokens: int = 4096,
    reuse: bool = True,
    device: str = "cpu",
    session_idle_s: float = 600.0,
    **config: Any,
) -> EngineConfig:
    """Small blocks, one thread for each rank."""
    return EngineConfig(
        model_checkpoint_path=str(checkpoint),
        parallel=ParallelConfig(tensor_para_size=tp, pipeline_para_size=pp),
        cache=CacheConfig(
            max_tokens=max_tokens, block_size=BLOCK_SIZE, enable_reuse=reuse, session_idle_s=session_idle_s
        ),
        num_threads=1,
        device=device,
        **config,
    )


class Answer:
    """All outputs of one request, joined."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.context = b""
        self.context_logits = b""
        self.logits = b""
        self.last: Output | None = None

    def take(self, output: Output) -> None:
        assert self.last is None, "an output after the last one"
        self.tokens += output.tokens
        self.logprobs += output.logprobs
        self.context += output.context
        self.context_logits += output.context_logits
        self.logits += output.logits
        self.last = output if output.finish_reason else None


def ask(client: EngineClient, requests: list[Request]) -> tuple[dict[int, Answer], EngineStats]:
    """Sends all at once and waits for all."""
    answers = {request.id: Answer() for request in requests}
    client.submit(requests)
    for message in client.outputs():
        for output in message.outputs:
            answers[output.id].take(output)
        if all(answer.last for answer in answers.values()):
            return answers, message.stats
    pytest.fail("the engine stopped talking")


def tokens_of(client: EngineClient, requests: list[Request]) -> dict[int, list[int]]:
    return {number: answer.tokens for number, answer in ask(client, requests)[0].items()}


def mixed_requests() -> list[Request]:
    """32 requests: lengths 1 to 70, some with a common prefix, greedy and drawn, with their own penalties."""
    source = random.Random(5)
    prefix = [source.randrange(VOCAB_SIZE) for _ in range(40)]
    kinds = [
        {},
        {"top_k": 20, "seed": 3},
        {"top_p": 0.9, "temperature": 0.8, "seed": 4, "logprobs": True},
        {"repetition_penalty": 1.3, "min_length": 6},
        {"frequency_penalty": 0.4, "presence_penalty": 0.2, "top_k": 50, "seed": 5},
        {"bad_words": ((7,), (8, 9)), "stop_words": ((11, 12),)},
        {"min_p": 0.02, "seed": 2**63 + 1},
        {"top_p": 0.95, "top_p_decay": 0.9, "top_p_min": 0.5, "top_p_reset_id": 5, "seed": 6},
        {"no_repeat_ngram_size": 2, "logit_bias": ((3, 4.0), (4, -4.0))},
    ]
    requests = []
    for number in range(32):
        own = [source.randrange(VOCAB_SIZE) for _ in range(source.randrange(1, 30))]
        prompt = (prefix if number % 3 == 0 else []) + own
        sampling = SamplingParams(max_tokens=source.randrange(1, 40), **kinds[number % len(kinds)])
        requests.append(Request(number, token_ids(prompt), sampling))
    return requests
