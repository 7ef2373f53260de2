# SPDX-License-Identifier: BSD-3-Clause
"""Sessions against a toy model: a conversation equals one long prompt, and what it keeps comes back."""

import pytest
from conversation import Conversation, kept
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_engine import INFO, ToyEngine, engine_config, expected

from fastertransformer.engine.block_pool import BlockPool
from fastertransformer.engine.sessions import Sessions
from fastertransformer.messages import FinishReason, Request, SamplingParams, Session, token_ids

NO_ENDS = ()


TURNS = st.tuples(
    st.integers(0, 3),  # which session
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 6),  # new tokens
    st.booleans(),  # the engine rests before the next one
)


@settings(max_examples=200, deadline=None)
@given(
    turns=st.lists(TURNS, min_size=1, max_size=12),
    num_blocks=st.integers(16, 40),
    shape=st.sampled_from([(0, 1), (1, 1), (2, 2)]),
    budget=st.integers(1, 24),
    reuse=st.booleans(),
    memory_lens=st.lists(st.sampled_from([0, 0, 3, 4, 9, 16]), min_size=4, max_size=4),
)
def test_conversations_equal_long_prompts(turns, num_blocks, shape, budget, reuse, memory_lens):
    depth, stages = shape
    config = engine_config(max_num_batched_tokens=budget, stages=stages, reuse=reuse)
    engine = ToyEngine(config, num_blocks, depth)
    talks = [Conversation(engine, n, memory_len=memory_len) for n, memory_len in enumerate(memory_lens)]
    open_turns: list[Conversation] = []
    for number, (which, new, max_tokens, rests) in enumerate(turns):
        talk = talks[which]
        if rests or talk in open_turns:
            engine.run()
            for done in open_turns:
                done.hear()
            open_turns.clear()
        if len(talk.tokens) + len(new) + max_tokens > INFO.max_model_len:
            continue
        talk.say(number, new, max_tokens)
        open_turns.append(talk)
    engine.run()
    for done in open_turns:
        done.hear()
    engine.scheduler.end_sessions(0, range(4))
    engine.scheduler.pool.check_integrity()


@pytest.mark.parametrize("reuse", [0, 1])
def test_a_turn_computes_only_what_is_new(reuse):
    engine = ToyEngine(engine_config(max_num_batched_tokens=64, reuse=reuse), num_blocks=32, depth=0)
    talk = Conversation(engine, 7)
    talk.say(0, list(range(1, 11)), 3)
    engine.run()
    talk.hear()
    length = len(talk.tokens)
    assert length % 4, "the last block is not full"
    talk.say(1, [5, 6, 7], 2)
    batch = engine.step()
    # The last token of an answer was sampled, but not computed.
    assert batch.num_computed.tolist() == [length - 1]
    assert batch.query_lens.tolist() == [1 + 3]
    engine.run()
    talk.hear()


def test_the_last_turn_gives_everything_back():
    engine = ToyEngine(engine_config(), num_blocks=32, depth=1)
    talk = Conversation(engine, 1)
    talk.say(0, [1, 2, 3, 4, 5], 4)
    engine.run()
    talk.hear()
    assert kept(engine) == 2
    talk.say(1, [6], 4, is_last=True)
    engine.run()
    talk.hear()
    engine.scheduler.pool.check_integrity()


def test_whoever_needs_blocks_takes_those_of_the_session_that_rests_longest():
    engine = ToyEngine(engine_config(max_num_batched_tokens=64, reuse=0), num_blocks=12, depth=0)
    first, second = Conversation(engine, 1), Conversation(engine, 2)
    for number, talk in enumerate((first, second)):
        talk.say(number, [number + 1] * 13, 3)
        engine.run()
        talk.hear()
    assert kept(engine) == 8
    engine.add(Request(2, token_ids([9] * 20), SamplingParams(max_tokens=1)))
    engine.run()
    assert engine.results[0, 2].finish_reason is FinishReason.LENGTH
    assert kept(engine) == 4
    assert engine.scheduler.stats.num_preemptions == 0
    second.say(3, [3], 1)
    assert engine.step().num_computed.tolist() == [len(second.tokens) - 1]
    engine.run()
    second.hear()
    first.say(4, [3], 1)
    assert engine.step().num_computed.tolist() == [0]
    engine.run()
    first.hear()


def test_a_decoding_sequence_takes_them_before_it_preempts_another():
    engine = ToyEngine(engine_config(reuse=0), num_blocks=8, depth=0)
    talk = Conversation(engine, 1)
    talk.say(0, [1] * 13, 3)
    engine.run()
    talk.hear()
    requests = [Request(n, token_ids((n,)), SamplingParams(max_tokens=14, end_ids=NO_ENDS)) for n in (1, 2)]
    for request in requests:
        engine.add(request)
    engine.run()
    assert kept(engine) == 0
    assert engine.scheduler.stats.num_preemptions == 0
    talk.say(3, [5], 3)
    engine.run()
    talk.hear()


def test_a_turn_that_was_aborted_or_says_something_else_takes_what_fits():
    engine = ToyEngine(engine_config(max_num_batched_tokens=6), num_blocks=32, depth=1)
    talk = Conversation(engine, 1)
    talk.say(0, [1, 2, 3, 4, 5], 4)
    engine.run()
    talk.hear()
    talk.say(1, list(range(10, 22)), 9)
    engine.step()
    engine.step()
    engine.scheduler.abort(0, [1])
    engine.run()
    length = len(talk.tokens)
    talk.say(2, [10, 11, 12, 60], 3)
    # Up to where the two turns differ, or to the block before.
    assert length <= engine.step().num_computed[0] <= length + 3
    engine.run()
    talk.hear()


@pytest.mark.parametrize("wants_logits", [False, True])
def test_what_a_turn_cannot_use_of_its_session_is_not_in_its_way(wants_logits):
    """It says something else, or needs its whole prompt computed, and the cache has no room for both."""
    engine = ToyEngine(engine_config(reuse=0), num_blocks=8, depth=0)
    talk = Conversation(engine, 1)
    talk.say(0, [1] * 20, 4)
    engine.run()
    talk.hear()
    assert kept(engine) == 6
    prompt = talk.tokens if wants_logits else [2] * 20
    sampling, session = SamplingParams(max_tokens=4), Session(1, is_last=True)
    request = Request(1, token_ids(prompt), sampling, session, wants_context_logits=wants_logits)
    engine.add(request)
    engine.run()
    assert engine.results[0, 1].error == ""
    assert engine.results[0, 1].tokens == expected(request)
    engine.scheduler.pool.check_integrity()


def test_a_turn_that_waits_for_blocks_keeps_what_it_can_use():
    engine = ToyEngine(engine_config(max_num_batched_tokens=64, reuse=0), num_blocks=8, depth=0)
    talk = Conversation(engine, 1)
    talk.say(0, [1] * 14, 3)
    engine.run()
    talk.hear()
    engine.add(Request(1, token_ids([9] * 12), SamplingParams(max_tokens=2, end_ids=NO_ENDS)))
    engine.step()
    talk.tokens = talk.tokens[:10]
    talk.say(2, [5] * 12, 3)
    assert engine.step().num_computed.tolist() == [12], "the other one goes on"
    assert engine.step().num_computed.tolist() == [10]
    engine.run()
    talk.hear()


def test_a_client_that_leaves_while_its_turn_runs_keeps_nothing():
    engine = ToyEngine(engine_config(), num_blocks=32, depth=2)
    for client in (0, 1):
        talk = Conversation(engine, 5, client)
        talk.say(0, [1, 2, 3], 3)
        engine.run()
        talk.hear()
        talk.say(1, [7, 7], 12)
    engine.step()
    engine.step()
    engine.scheduler.drop_client(0)
    engine.scheduler.end_sessions(1, [5])
    engine.run()
    talk.hear()
    engine.scheduler.pool.check_integrity()


def test_sessions_that_rest_for_too_long_keep_nothing():
    pool = BlockPool(8, 4)
    sessions = Sessions(pool, idle_seconds=10)
    assert sessions.patience is None
    for now, number in ((100.0, 1), (104.0, 2)):
        sessions.expire(now)
        sessions.keep((0, number), [1, 2, 3, 4, 5], pool.allocate(3))
    assert pool.num_free == 4
    assert sessions.patience == 6.0
    sessions.expire(110.0)
    assert sessions.find((0, 1), [1, 2, 3, 4, 5]) == ([], 0)
    assert sessions.find((0, 2), [1, 2, 3, 4, 5, 6])[1] == 5
    assert sessions.patience == 4.0
    sessions.expire(114.0)
    pool.check_integrity()


def test_a_block_that_others_share_is_not_written_to():
    pool = BlockPool(8, 4)
    sessions = Sessions(pool, idle_seconds=10)
    blocks = pool.allocate(2)
    pool.publish(blocks[0], b"first")
    sessions.keep((0, 1), [1, 2, 3, 4, 5, 6], blocks)
    assert sessions.find((0, 1), [1, 2, 3, 9]) == ([], 0)
    assert sessions.find((0, 1), [1, 2, 3, 4, 5, 9]) == (blocks, 5)
    pool.share(blocks)
    assert sessions.find((0, 1), [1, 2, 3, 4, 5, 9]) == (blocks[:1], 4)
