# SPDX-License-Identifier: BSD-3-Clause
"""What an input is encoded to depends on the input alone: not on neighbours, steps or ranks."""

import random

import numpy as np
import pytest
import tiny_checkpoints
from encoder_checkpoints import make
from engine_runs import running_engine
from msgspec.structs import replace

from fastertransformer.messages import (
    EncodeRequest,
    FinishReason,
    Request,
    SamplingParams,
    token_ids,
)
from fastertransformer.server.client import EngineClient

TOLERANCE = 1e-4
HALF_TOLERANCES = {"fp16": 5e-3, "bf16": 4e-2}
"""Relative to the norm of what the CPU gives in float32."""
CASES = ("bert-pretraining", "roberta-classes", "mpnet-masked", "distilbert-masked", "deberta-own")


def ask(client: EngineClient, requests: list[EncodeRequest | Request]) -> dict[int, object]:
    """The last output of every request."""
    answers: dict[int, object] = {}
    client.submit(requests)
    for message in client.outputs():
        answers |= {output.id: output for output in message.outputs}
        if len(answers) == len(requests):
            return answers
    pytest.fail("the engine stopped talking")


def arrays(output: object) -> dict[str, np.ndarray]:
    assert output.finish_reason is FinishReason.ENCODED, output.error
    return output.arrays


def mixed_requests(client: EngineClient) -> list[EncodeRequest]:
    """24 inputs of 1 to 90 tokens, some with token types, some for all outputs, one of hidden states."""
    source, encoder = random.Random(5), client.info.encoder
    requests = []
    for number in range(24):
        length = source.randrange(1, 90)
        tokens = token_ids([source.randrange(3, 101) for _ in range(length)])
        types = [source.randrange(max(encoder.num_token_types, 1)) for _ in range(length)]
        outputs = encoder.outputs if number % 3 else encoder.outputs[number % 2 :: 2]
        requests.append(
            EncodeRequest(
                id=number,
                tokens=tokens,
                token_types=token_ids(types) if number % 2 else token_ids(),
                outputs=outputs,
            )
        )
    hidden = np.random.default_rng(0).standard_normal((17, encoder.hidden_size), np.float32)
    requests.insert(9, EncodeRequest(id=99, hidden_states=hidden, outputs=encoder.outputs))
    return requests


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    make(request.param, folder)
    return folder


@pytest.fixture(scope="module")
def alone(case):
    """Every request on an engine that does nothing else."""
    with running_engine(case, depth=0) as client:
        return {
            number: arrays(output)
            for request in mixed_requests(client)
            for number, output in ask(client, [request]).items()
        }


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({"depth": 0}, id="together"),
        pytest.param({"depth": 2, "max_num_batched_tokens": 64}, id="many-steps"),
        pytest.param({"disable_kernels": ("encoder_attention", "disentangled_attention")}, id="definitions"),
        pytest.param({"tp": 2}, id="tp2"),
        pytest.param({"pp": 2}, id="pp2"),
        pytest.param({"tp": 2, "pp": 2, "max_num_batched_tokens": 100}, id="tp2-pp2"),
        pytest.param({"device": "cuda"}, id="gpu", marks=pytest.mark.gpu),
        pytest.param(
            {"device": "cuda", "max_num_batched_tokens": 64}, id="gpu-many-steps", marks=pytest.mark.gpu
        ),
    ],
)
def test_same_arrays(case, alone, engine):
    with running_engine(case, **engine) as client:
        answers = ask(client, mixed_requests(client))
    assert answers.keys() == alone.keys()
    for number, output in answers.items():
        found = arrays(output)
        assert found.keys() == alone[number].keys()
        for name, values in found.items():
            assert values.shape == alone[number][name].shape, name
            assert np.abs(values - alone[number][name]).max() < TOLERANCE, (number, name)


@pytest.mark.parametrize("engine", [{}, {"max_num_batched_tokens": 64}, {"tp": 2, "pp": 2}])
def test_one_output_is_the_same_without_the_others(case, alone, engine):
    """Of some the last layer computes the first tokens alone."""
    with running_engine(case, **engine) as client:
        requests = [request for request in mixed_requests(client) if request.id % 3]
        for name in client.info.encoder.outputs:
            answers = ask(client, [replace(request, outputs=(name,)) for request in requests])
            for number, output in answers.items():
                (values,) = arrays(output).values()
                assert np.abs(values - alone[number][name]).max() < TOLERANCE, (number, name)


@pytest.mark.gpu
@pytest.mark.parametrize("data_type", ["fp16", "bf16"])
def test_halves_on_a_gpu_are_near(case, alone, data_type):
    with running_engine(case, device="cuda", data_type=data_type) as client:
        answers = ask(client, mixed_requests(client))
    for number, output in answers.items():
        for name, values in arrays(output).items():
            wanted = alone[number][name]
            error = np.linalg.norm(values - wanted) / np.linalg.norm(wanted)
            assert error < HALF_TOLERANCES[data_type], (number, name)


BAD = [
    ({"tokens": token_ids(())}, "has 0 tokens"),
    ({"tokens": token_ids((5,)) * 200}, "has 200 tokens; the model takes 1 to 130"),
    ({"tokens": token_ids((5, 101))}, "token id 101 at position 1"),
    ({"tokens": token_ids((5, 2**32 + 6, -1))}, "token id 4294967302 at position 1"),
    (
        {"tokens": token_ids((5,)), "outputs": ("taste",)},
        "taste is wanted; this model gives last_hidden_state",
    ),
    ({"tokens": token_ids((5, 6)), "token_types": token_ids((0,))}, "token_types has 1 values for 2 tokens"),
    ({"tokens": token_ids((5, 6)), "token_types": token_ids((0, 7))}, "7 at position 1 is not in [0, 2)"),
    ({"hidden_states": np.zeros((2, 5), np.float32)}, "shape [2, 5]; allowed is [tokens, 48]"),
]


def test_bad_requests_are_refused_and_others_served(tmp_path):
    make("bert", tmp_path)
    wanted = {"outputs": ("last_hidden_state",)}
    requests = [EncodeRequest(id=number, **{**wanted, **fields}) for number, (fields, _) in enumerate(BAD)]
    good = EncodeRequest(id=100, tokens=token_ids((5, 6)), **wanted)
    generating = Request(101, token_ids((5, 6)), SamplingParams(max_tokens=3))
    with running_engine(tmp_path) as client:
        answers = ask(client, [*requests, good, generating])
    for number, (_, message) in enumerate(BAD):
        assert answers[number].finish_reason is FinishReason.ERROR
        assert message in answers[number].error
    assert arrays(answers[100])["last_hidden_state"].shape == (2, 48)
    assert "the model is an encoder (bert): it encodes, and generates no tokens" in answers[101].error


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({}, id="one"),
        pytest.param({"pp": 2}, id="pp2"),
        pytest.param({"device": "cuda"}, id="gpu", marks=pytest.mark.gpu),
    ],
)
def test_whoever_asks_for_nothing_is_answered(tmp_path, engine):
    """As a client of a text model that wants to know how many tokens there are."""
    make("bert", tmp_path)
    nothing = EncodeRequest(id=1, tokens=token_ids((5, 6)), outputs=())
    something = EncodeRequest(id=2, tokens=token_ids((5, 6)), outputs=("embedding",))
    with running_engine(tmp_path, **engine) as client:
        assert arrays(ask(client, [nothing])[1]) == {}
        answers = ask(client, [nothing, something])
    assert arrays(answers[1]) == {}
    assert arrays(answers[2])["embedding"].shape == (48,)


def test_a_decoder_does_not_encode(tmp_path):
    tiny_checkpoints.make("llama", tmp_path)
    request = EncodeRequest(id=1, tokens=token_ids((5, 6)), outputs=("last_hidden_state",))
    with running_engine(tmp_path) as client:
        answers = ask(client, [request])
    assert "the model is a decoder (llama): it generates tokens, and does not encode" in answers[1].error
