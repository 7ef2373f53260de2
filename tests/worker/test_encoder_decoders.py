# SPDX-License-Identifier: BSD-3-Clause
"""Encoder-decoders in flight: what each request gets alone, in whatever company, on however many ranks."""

import random
from pathlib import Path

import msgspec
import pytest
import torch
from engine_runs import BLOCK_SIZE, ask, running_engine, tokens_of
from tiny_encoder_decoders import make

from fastertransformer.messages import FinishReason, Request, SamplingParams, token_ids

FAMILIES = ["t5", "m2m_100"]
START = {"t5": 0, "m2m_100": 2}
KINDS = [
    {},
    {"top_k": 20, "seed": 3},
    {"top_p": 0.9, "temperature": 0.8, "seed": 4, "logprobs": True},
    {"repetition_penalty": 1.3, "min_length": 6},
]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory) -> tuple[str, Path, torch.nn.Module]:
    """(name, checkpoint, transformers model)"""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, make(request.param, folder)


def made_of(
    number: int,
    start: tuple[int, ...],
    sampling: SamplingParams,
    encoder_tokens: tuple[int, ...] = (),
    forced: tuple[int, ...] = (),
) -> Request:
    return Request(
        number, token_ids(start), sampling, encoder_tokens=token_ids(encoder_tokens), forced_tokens=forced
    )


def requests(name: str, count: int = 24) -> list[Request]:
    """Inputs of 1 to 70 tokens; some decoders start with several tokens, some outputs with a forced one."""
    source = random.Random(5)
    made = []
    for number in range(count):
        encoder_tokens = tuple(source.randrange(3, 90) for _ in range(source.randrange(1, 70)))
        start = (START[name], 7, 8) if number % 5 == 0 else (START[name],)
        sampling = SamplingParams(max_tokens=source.randrange(1, 40), **KINDS[number % len(KINDS)])
        forced = (11,) if number % 3 == 0 else ()
        made.append(made_of(number, start, sampling, encoder_tokens, forced))
    return made


def alone(model: tuple[str, Path, torch.nn.Module]) -> dict[int, list[int]]:
    name, checkpoint, _ = model
    with running_engine(checkpoint) as client:
        return {
            number: tokens
            for request in requests(name)
            for number, tokens in tokens_of(client, [request]).items()
        }


@pytest.fixture(scope="module")
def expected(model) -> dict[int, list[int]]:
    return alone(model)


def test_greedy_tokens_are_those_of_transformers(model):
    name, checkpoint, reference = model
    sources = [[(7 * i + number) % 80 + 3 for i in range(5 * number + 1)] for number in range(6)]
    sampling = SamplingParams(max_tokens=24, end_ids=())
    asked = [
        made_of(number, (START[name],), sampling, tuple(source)) for number, source in enumerate(sources)
    ]
    with running_engine(checkpoint) as client:
        found = tokens_of(client, asked)
    for number, source in enumerate(sources):
        generated = reference.generate(
            torch.tensor([source]),
            max_new_tokens=24,
            min_new_tokens=24,
            do_sample=False,
            num_beams=1,
            eos_token_id=None,
            use_cache=False,
        )
        assert found[number] == generated[0, 1:].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_num_batched_tokens": 16},  # most inputs are longer
        {"max_tokens": 30 * BLOCK_SIZE},  # sequences give their blocks back and are encoded again
        {"tp": 2},
        {"pp": 2},
        pytest.param({"device": "cuda"}, marks=pytest.mark.gpu),
    ],
    ids=lambda changes: "-".join(changes) or "together",
)
def test_together_is_as_alone(model, expected, changes):
    name, checkpoint, _ = model
    with running_engine(checkpoint, **changes) as client:
        answers, stats = ask(client, requests(name))
    assert {number: answer.tokens for number, answer in answers.items()} == expected
    assert stats.num_free_blocks == stats.num_total_blocks
    assert (stats.num_preemptions > 0) == ("max_tokens" in changes)


SEARCHES = [
    {"beam_width": 4, "length_penalty": 1.0},
    {"beam_width": 2, "length_penalty": 0.0, "early_stopping": True},
    {"beam_width": 3, "length_penalty": 2.0, "end_ids": tuple(range(30, 40))},
]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_tokens": 55 * BLOCK_SIZE},
        {"tp": 2},
        {"pp": 2},
        pytest.param({"device": "cuda"}, marks=pytest.mark.gpu),
    ],
    ids=lambda changes: "-".join(changes) or "one",
)
def test_beams_are_those_of_transformers_among_other_requests(model, changes):
    """They share the encoder's keys; a forced token counts for the length and not for the score."""
    name, checkpoint, reference = model
    source = random.Random(9)
    searches = []
    for number in range(6):
        tokens = tuple(source.randrange(3, 90) for _ in range(source.randrange(1, 60)))
        sampling = SamplingParams(max_tokens=10 + number, **SEARCHES[number % 3])
        forced = (11,) if number % 2 else ()
        searches.append(made_of(100 + number, (START[name],), sampling, tokens, forced))
    with running_engine(checkpoint, **changes) as client:
        answers, stats = ask(client, [*searches, *requests(name, 8)])
    assert stats.num_free_blocks == stats.num_total_blocks
    assert (stats.num_preemptions > 0) == ("max_tokens" in changes)
    for request in searches:
        found = [list(beam.tokens) for beam in answers[request.id].last.beams]
        assert found == generated(reference, request)


def generated(reference: torch.nn.Module, request: Request) -> list[list[int]]:
    """What transformers finds, without what fills the rows up."""
    sampling = request.sampling
    ends = list(sampling.end_ids or (reference.config.eos_token_id,))
    rows = reference.generate(
        torch.tensor([request.encoder_tokens]),
        num_beams=sampling.beam_width,
        num_return_sequences=sampling.beam_width,
        max_new_tokens=sampling.max_tokens,
        length_penalty=sampling.length_penalty,
        early_stopping=sampling.early_stopping,
        forced_bos_token_id=request.forced_tokens[0] if request.forced_tokens else None,
        do_sample=False,
        eos_token_id=ends,
        use_cache=False,
    )[:, 1:].tolist()
    return [row[: next((at for at, token in enumerate(row) if token in ends), len(row)) + 1] for row in rows]


def test_the_output_begins_with_what_is_forced(model):
    name, checkpoint, _ = model
    start, source = (START[name],), (5, 6, 7, 8)

    def request(number: int, max_tokens: int, forced: tuple[int, ...], prompt: tuple[int, ...]) -> Request:
        sampling = SamplingParams(max_tokens=max_tokens, end_ids=(12,), logprobs=True)
        return made_of(number, prompt, sampling, source, forced)

    asked = [
        request(0, 9, (11,), start),
        request(1, 8, (), (*start, 11)),
        request(2, 1, (11,), start),
        request(3, 9, (12,), start),
    ]
    with running_engine(checkpoint) as client:
        answers, _ = ask(client, asked)
    assert answers[0].tokens == [11, *answers[1].tokens]
    assert answers[0].logprobs == [0.0, *answers[1].logprobs]
    assert (answers[2].tokens, answers[2].last.finish_reason) == ([11], FinishReason.LENGTH)
    assert (answers[3].tokens, answers[3].last.finish_reason) == ([12], FinishReason.STOP)


def test_bad_requests_are_refused_and_others_served(model):
    name, checkpoint, _ = model
    good = requests(name)[1]
    sampling = SamplingParams(max_tokens=20)
    bad = {
        "encoder_tokens is empty; an encoder-decoder": made_of(100, (0,), sampling),
        "encoder_tokens has 5000 tokens": made_of(101, (0,), sampling, (5,) * 5000),
        "token id 101 at position 1": made_of(102, (0,), sampling, (5, 101)),
        "forced_tokens: token id 500": made_of(103, (0,), sampling, (5,), (500,)),
        "need 17 KV cache blocks": made_of(104, (0,), sampling, (5,) * 110),
    }
    with running_engine(checkpoint, max_tokens=16 * BLOCK_SIZE) as client:
        answers, _ = ask(client, [*bad.values(), good])
    for reason, request in bad.items():
        assert reason in answers[request.id].last.error
    assert answers[good.id].last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


def test_prompts_are_rows_of_the_encoders_input(tmp_path):
    """A request's own and a task's, between requests without any."""
    reference = make("t5", tmp_path)
    table = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    sizes = "d_model=48\nvocab_size=101\nnum_tasks=1\nprompt_learning_type=3\n"
    task = "[task_0]\ntask_name=mine\nprompt_length=5\n"
    (tmp_path / "config.ini").write_text(f"[encoder]\n{sizes}{task}")
    (tmp_path / "model.prompt_table.mine.weight.bin").write_bytes(table.numpy().tobytes())
    sampling, words = SamplingParams(max_tokens=10, end_ids=(100,)), (7, 8, 9, 30)
    tokens = (*words, -2, -5, 11)
    plain = Request(0, token_ids((0,)), sampling, encoder_tokens=token_ids(words))
    own = Request(
        1, token_ids((0,)), sampling, encoder_tokens=token_ids(tokens), embeddings=table.numpy().tobytes()
    )
    of_task = Request(2, token_ids((0,)), sampling, encoder_tokens=token_ids(tokens), prompt_task=0)
    beyond = Request(3, token_ids((0,)), sampling, encoder_tokens=token_ids((*words, -6)), prompt_task=0)
    with running_engine(tmp_path) as client:
        assert client.info.prompt_learning.start_id == 102
        answers, _ = ask(client, [plain, own, of_task, beyond, msgspec.structs.replace(plain, id=4)])
    assert "token id -6 at position 4 is not in the vocabulary" in answers[3].last.error
    embedded = reference.shared(torch.tensor([words]))
    mixed = torch.cat([embedded[0], table[[1, 4]], reference.shared(torch.tensor([11]))])[None]
    for inputs, numbers in ((embedded, (0, 4)), (mixed, (1, 2))):
        with torch.no_grad():
            expected = reference.generate(
                inputs_embeds=inputs,
                decoder_input_ids=torch.tensor([[0]]),
                max_new_tokens=10,
                do_sample=False,
                num_beams=1,
                eos_token_id=100,
                pad_token_id=100,
                use_cache=False,  # whose length is wrong where the stacks have different ones
            )[0, 1:].tolist()
        for number in numbers:
            found = answers[number].tokens
            assert found == expected[: len(found)]
            assert len(found) == 10 or found[-1] == 100
