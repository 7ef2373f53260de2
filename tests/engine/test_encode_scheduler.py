# SPDX-License-Identifier: BSD-3-Clause
"""How inputs are packed into steps, and what becomes of requests that end early."""

import numpy as np
import pytest
from toy_engine import engine_config

from fastertransformer.config import EngineConfig
from fastertransformer.engine.encode_batch import EncodeBatch, EncodeResult
from fastertransformer.engine.encode_scheduler import MAX_RESULT_NUMBERS, EncodeScheduler
from fastertransformer.messages import EncodeRequest, FinishReason, token_ids

SUM = ("sum",)


def request(number: int, length: int, **more: object) -> EncodeRequest:
    return EncodeRequest(id=number, tokens=token_ids(range(1, length + 1)), outputs=SUM, **more)


def embedded(number: int, length: int) -> EncodeRequest:
    numbers = np.arange(length * 2, dtype=np.float32).reshape(length, 2)
    return EncodeRequest(id=number, hidden_states=numbers, outputs=SUM)


def computed(batch: EncodeBatch) -> EncodeResult:
    """The sum of every input's numbers."""
    values = batch.tokens if batch.tokens is not None else batch.hidden_states.sum(-1)
    pieces = np.split(values, np.cumsum(batch.lengths)[:-1])
    return EncodeResult(tuple({"sum": np.array([piece.sum()], np.float32)} for piece in pieces))


def run(scheduler: EncodeScheduler) -> tuple[list[list[int]], dict[tuple[int, int], object]]:
    """(lengths of every step, last output of every request)"""
    steps, outputs = [], {}
    while not scheduler.idle:
        batch = scheduler.schedule()
        if batch is not None:
            steps.append(batch.lengths.tolist())
            scheduler.update(computed(batch))
        outputs |= {(client, output.id): output for client, output in scheduler.take_outputs()}
    return steps, outputs


def scheduler_of(config: EngineConfig, numbers_per_token: int = 1) -> EncodeScheduler:
    return EncodeScheduler(config, lambda request: numbers_per_token * request.num_tokens)


def value(output: object) -> float:
    assert output.finish_reason is FinishReason.ENCODED
    return float(output.arrays["sum"][0])


@pytest.mark.parametrize(
    ("lengths", "steps"),
    [
        ([3, 5, 1, 8, 2], [[3, 5], [1], [8], [2]]),
        ([20, 1, 1], [[20], [1, 1]]),  # longer than the budget: alone
        ([1, 20, 1], [[1], [20], [1]]),
        ([1] * 6, [[1, 1, 1, 1], [1, 1]]),  # max_num_seqs is 4
    ],
)
def test_whole_inputs_share_steps_in_order(lengths, steps):
    scheduler = scheduler_of(engine_config())
    for number, length in enumerate(lengths):
        scheduler.add(0, request(number, length))
    found, outputs = run(scheduler)
    assert found == steps
    for number, length in enumerate(lengths):
        assert value(outputs[0, number]) == length * (length + 1) / 2


def test_a_step_leaves_no_more_than_fits():
    scheduler = scheduler_of(engine_config(), MAX_RESULT_NUMBERS // 4)
    for number, length in enumerate([3, 1, 1, 4, 5, 2]):
        scheduler.add(0, request(number, length))
    found, outputs = run(scheduler)
    assert found == [[3, 1], [1], [4], [2]]
    size = MAX_RESULT_NUMBERS // 4 * 5
    assert f"of 5 tokens are {size} numbers; allowed are {MAX_RESULT_NUMBERS}" in outputs[0, 4].error
    assert not outputs[0, 4].may_retry


def test_tokens_and_hidden_states_have_steps_of_their_own():
    scheduler = scheduler_of(engine_config())
    for item in (request(0, 2), embedded(1, 2), embedded(2, 3), request(3, 1)):
        scheduler.add(0, item)
    steps, outputs = run(scheduler)
    assert steps == [[2], [2, 3], [1]]
    assert [value(outputs[0, number]) for number in range(4)] == [3, 6, 15, 1]


def test_token_types_are_filled_up():
    scheduler = scheduler_of(engine_config())
    scheduler.add(0, request(0, 2))
    scheduler.add(0, request(1, 3, token_types=token_ids((0, 1, 1))))
    batch = scheduler.schedule()
    assert batch.token_types.tolist() == [0, 0, 0, 1, 1]


def test_an_aborted_request_is_not_computed():
    scheduler = scheduler_of(engine_config())
    for number in range(3):
        scheduler.add(0, request(number, 4))
    scheduler.abort(0, [1, 7])
    steps, outputs = run(scheduler)
    assert steps == [[4, 4]]
    assert outputs[0, 1].finish_reason is FinishReason.ABORTED


def test_a_request_that_ends_in_flight_is_answered_once():
    scheduler = scheduler_of(engine_config())
    scheduler.add(0, request(0, 4))
    scheduler.add(1, request(0, 3))
    batch = scheduler.schedule()
    scheduler.abort(0, [0])
    scheduler.drop_client(1)
    scheduler.add(0, request(0, 2))  # the id is free again, and the old result is not its answer
    scheduler.update(computed(batch))
    reasons = [(client, output.finish_reason) for client, output in scheduler.take_outputs()]
    assert reasons == [(0, FinishReason.ABORTED)]
    _, outputs = run(scheduler)
    assert value(outputs[0, 0]) == 3


def test_refusals_name_their_reason():
    scheduler = scheduler_of(engine_config(max_queue_size=1))
    for number in (0, 0, 1):
        scheduler.add(0, request(number, 4))
    errors = [output.error for _, output in scheduler.take_outputs()]
    assert "already in use" in errors[0]
    assert "queue is full" in errors[1]
    assert scheduler.stats.num_waiting == 1
