# SPDX-License-Identifier: BSD-3-Clause
"""The order of turns, and what is left of a conversation when one of them fails."""

import numpy as np
import pytest

from fastertransformer.errors import InvalidRequest
from fastertransformer.messages import EngineInfo, FinishReason, Request, SamplingParams, token_ids
from fastertransformer.server.call import Row
from fastertransformer.server.contracts.interactive import InteractiveContract
from fastertransformer.server.conversations import Conversation, Conversations, Turn

IDLE_S = 60.0
INFO = EngineInfo(model_type="toy", vocab_size=9, max_model_len=64, start_id=1, end_ids=(0,), plan="")


class OneRow:
    """A call of one row."""

    def __init__(self, prompt: tuple[int, ...]) -> None:
        self.rows = [Row(Request(0, token_ids(prompt), SamplingParams(max_tokens=1)))]

    def answer(self, token: int) -> "OneRow":
        self.rows[0].tokens.append(token)
        self.rows[0].finish_reason = FinishReason.LENGTH
        return self


class Contract:
    """Conversations of one row; the tensors of a turn are its tokens, and none are an error."""

    def __init__(self) -> None:
        self.num_started = 0

    def start(self, turn: Turn) -> Conversation:
        self.num_started += 1
        return Conversation([self.num_started], 64, 0, [()], [0])

    def open(self, turn: Turn, conversation: Conversation) -> OneRow:
        if not turn.tensors:
            raise InvalidRequest("nothing was said")
        return OneRow((*conversation.tokens[0], *turn.tensors))


@pytest.fixture
def conversations() -> Conversations:
    return Conversations(Contract(), IDLE_S)


def turn(tokens: tuple[int, ...], flags: str = "", since: float = 0.0, name: int | str = 5) -> Turn:
    return Turn(name, "start" in flags, "end" in flags, tokens, INFO, None, since)


def say(conversations: Conversations, one: Turn, answer: int) -> tuple[int, ...]:
    """The prompt of a turn that begins at once and is answered."""
    ((begun, call),) = conversations.arrive(one)
    assert begun is one
    assert conversations.close(one, call.answer(answer)) == []
    return tuple(call.rows[0].request.prompt)


def refusal(conversations: Conversations, one: Turn) -> str:
    ((begun, error),) = conversations.arrive(one)
    assert begun is one
    assert isinstance(error, InvalidRequest)
    return str(error)


def test_a_turn_waits_for_the_one_before(conversations):
    first, second, third = turn((1,), "start"), turn((2,)), turn((3,), "end")
    ((_, call),) = conversations.arrive(first)
    assert conversations.arrive(second) == conversations.arrive(third) == []
    assert len(conversations.arrive(turn((7,), "start", name="5"))) == 1, "another one does not"
    ((begun, second_call),) = conversations.close(first, call.answer(8))
    assert begun is second
    assert tuple(second_call.rows[0].request.prompt) == (1, 8, 2)
    ((begun, third_call),) = conversations.close(second, second_call.answer(9))
    assert begun is third
    assert tuple(third_call.rows[0].request.prompt) == (1, 8, 2, 9, 3)
    assert conversations.take_ended() == []
    conversations.close(third, third_call.answer(4))
    assert conversations.take_ended() == [1]
    assert "is not known" in refusal(conversations, turn((4,)))


def test_a_turn_that_fails_was_not_said(conversations):
    say(conversations, turn((1,), "start"), 8)
    assert refusal(conversations, turn(())) == "nothing was said"
    lost = turn((2,))
    ((_, call),) = conversations.arrive(lost)
    conversations.close(lost, call)  # without an answer
    assert say(conversations, turn((3,)), 9) == (1, 8, 3)


@pytest.mark.parametrize("tokens", [(), (1,)])
def test_a_first_turn_that_fails_has_not_begun_a_conversation(conversations, tokens):
    first = turn(tokens, "start")
    ((_, call),) = conversations.arrive(first)
    if tokens:
        conversations.close(first, call)
        assert conversations.take_ended() == [1]
    assert "is not known" in refusal(conversations, turn((2,)))
    assert say(conversations, turn((3,), "start"), 9) == (3,)


@pytest.mark.parametrize("tokens", [(), (2,)])
def test_a_last_turn_ends_it_even_when_it_fails(conversations, tokens):
    say(conversations, turn((1,), "start"), 8)
    last = turn(tokens, "end")
    ((_, call),) = conversations.arrive(last)
    if tokens:
        conversations.close(last, call)
    assert conversations.take_ended() == [1]
    assert "is not known" in refusal(conversations, turn((2,)))


def test_started_twice_is_an_error_until_triton_has_forgotten_the_first(conversations):
    say(conversations, turn((1,), "start", since=100.0), 8)
    assert "was started twice" in refusal(conversations, turn((2,), "start", since=159.0))
    assert say(conversations, turn((3,), since=159.0), 9) == (1, 8, 3)
    assert conversations.take_ended() == []
    assert say(conversations, turn((4,), "start", since=219.0), 9) == (4,)
    assert conversations.take_ended() == [1]


def test_one_turn_can_be_all_of_a_conversation(conversations):
    for number in (1, 2):
        assert say(conversations, turn((3,), "start end"), 9) == (3,)
        assert conversations.take_ended() == [number]


def test_those_that_nobody_can_continue_are_forgotten(conversations, monkeypatch):
    say(conversations, turn((1,), "start", since=100.0), 8)
    busy = turn((1,), "start", since=100.0, name=6)
    ((_, call),) = conversations.arrive(busy)
    monkeypatch.setattr("time.monotonic", lambda: 159.0)
    conversations.expire()
    assert conversations.take_ended() == []
    monkeypatch.setattr("time.monotonic", lambda: 160.0)
    conversations.expire()
    assert conversations.take_ended() == [1]
    assert "is not known" in refusal(conversations, turn((2,)))
    conversations.close(busy, call.answer(8))
    assert say(conversations, turn((2,), name=6), 9) == (1, 8, 2)


@pytest.mark.parametrize("length", [-1, 4])
def test_a_length_outside_of_a_turns_ids_is_refused(length):
    entries = [
        {"name": name, "data_type": "TYPE_INT32"}
        for name in ("input_ids", "input_lengths", "request_output_len")
    ]
    contract = InteractiveContract({"input": entries, "output": []})
    tensors = {
        "input_ids": np.array([[[5, 6, 7]]], np.int32),
        "input_lengths": np.array([[[length]]], np.int32),
        "request_output_len": np.array([[[2]]], np.int32),
    }
    conversation = Conversation([0], 64, 0, tokens=[(1, 2, 3, 4)], num_hidden=[0])
    with pytest.raises(InvalidRequest, match=rf"input_lengths is {length}; allowed is \[0, 3\]"):
        contract.open(Turn(5, False, False, tensors, INFO, None), conversation)
