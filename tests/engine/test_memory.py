# SPDX-License-Identifier: BSD-3-Clause
"""`memory_len` against a toy model: what no token sees is given back, and sessions keep what tokens saw."""

import pytest
from conversation import Conversation, kept
from msgspec.structs import replace
from toy_engine import ToyEngine, engine_config

from fastertransformer.messages import Request, SamplingParams, token_ids

NO_ENDS = ()


@pytest.mark.parametrize("reuse", [0, 1])
@pytest.mark.parametrize(("before", "after"), [(0, 4), (8, 4), (8, 0)])
def test_a_turn_that_sees_less_or_more_than_the_one_before_goes_on_from_nothing(before, after, reuse):
    """What a token has seen is in its keys and values."""
    engine = ToyEngine(engine_config(max_num_batched_tokens=64, reuse=reuse), num_blocks=32, depth=0)
    talk = Conversation(engine, 1, memory_len=before)
    talk.say(0, [1, 2, 3, 4, 5], 2)
    engine.run()
    talk.hear()
    talk.memory_len = after
    talk.say(1, [2], 5)
    assert engine.step().num_computed.tolist() == [0]
    engine.run()
    talk.hear()


@pytest.mark.parametrize("depth", [0, 2])
def test_what_lies_behind_the_memory_is_given_back(depth):
    engine = ToyEngine(engine_config(), num_blocks=14, depth=depth)
    talk = Conversation(engine, 1, memory_len=13)
    for number in range(4):
        talk.say(number, [number + 1] * 9, 3)
        engine.run()
        talk.hear()
        assert kept(engine) <= 13 // 4
    assert len(talk.tokens) > 40
    talk.say(4, [1], 1, is_last=True)
    engine.run()
    talk.hear()
    engine.scheduler.pool.check_integrity()


def test_a_decoding_sequence_holds_no_more_than_its_memory():
    engine = ToyEngine(engine_config(), num_blocks=6, depth=1)
    engine.add(
        Request(0, token_ids((1, 2, 3)), SamplingParams(max_tokens=50, end_ids=NO_ENDS), memory_len=16)
    )
    engine.step()
    for _ in range(45):
        engine.step()
        assert kept(engine) <= 16 // 4 + 1
    engine.run()
    assert len(engine.results[0, 0].tokens) == 50


def test_a_memory_longer_than_any_sequence_sees_all():
    """Of as many tokens as an unsigned integer of 64 bits says."""
    engine = ToyEngine(engine_config(), num_blocks=16, depth=1)
    request = Request(0, token_ids((1, 2, 3)), SamplingParams(max_tokens=20, end_ids=NO_ENDS))
    engine.add(request, 0)
    engine.add(replace(request, memory_len=2**64 - 1), 1)
    engine.run()
    assert engine.results[1, 0].tokens == engine.results[0, 0].tokens
