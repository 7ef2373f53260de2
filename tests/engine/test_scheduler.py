# SPDX-License-Identifier: BSD-3-Clause
"""The scheduler against a toy model: same tokens whatever the schedule, nothing leaked, nobody starved."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from toy_engine import BLOCK_SIZE, INFO, ToyEngine, engine_config, expected, next_token, request

from fastertransformer.engine.batch import MAX_CONTEXT_LOGITS_BYTES
from fastertransformer.messages import FinishReason

PROMPTS = st.lists(st.integers(1, 9), min_size=1, max_size=30)
SHARED_PREFIX = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]


@st.composite
def requests(draw):
    """Prompts that often share a prefix, so that blocks are reused."""
    prompt = (SHARED_PREFIX if draw(st.booleans()) else []) + draw(PROMPTS)
    return prompt, draw(st.integers(1, 20)), draw(st.integers(0, 30))


def wishing(entry, with_logits):
    """Every second one wants the logits of its prompt, every third one those of its tokens."""
    wishes = {"wants_context_logits": entry.id % 2 == 0, "wants_logits": entry.id % 3 == 0}
    return replace(entry, **wishes) if with_logits else entry


@settings(max_examples=300, deadline=None)
@given(
    work=st.lists(requests(), min_size=1, max_size=12),
    num_blocks=st.integers(16, 40),
    budget=st.integers(1, 24),
    max_num_seqs=st.integers(1, 6),
    shape=st.sampled_from([(0, 1), (1, 1), (2, 2), (3, 3)]),
    reuse=st.booleans(),
    with_logits=st.booleans(),
)
def test_same_tokens_whatever_the_schedule(work, num_blocks, budget, max_num_seqs, shape, reuse, with_logits):
    """Logits, where some want them, are those of their tokens, once each."""
    depth, stages = shape
    config = engine_config(
        max_num_batched_tokens=budget, max_num_seqs=max_num_seqs, stages=stages, reuse=reuse
    )
    engine = ToyEngine(config, num_blocks, depth)
    pending = [
        (arrival, wishing(request(number, prompt, tokens), with_logits))
        for number, (prompt, tokens, arrival) in enumerate(work)
    ]
    for step in range(31):
        for arrival, entry in pending:
            if arrival == step:
                engine.add(entry)
        engine.step()
    engine.run()
    for _, entry in pending:
        result = engine.results[0, entry.id]
        assert result.tokens == expected(entry)
        assert result.context_logits == (list(entry.prompt) if entry.wants_context_logits else [])
        assert result.logits == (result.tokens if entry.wants_logits else [])
    engine.scheduler.pool.check_integrity()


@settings(max_examples=150, deadline=None)
@given(
    work=st.lists(requests(), min_size=2, max_size=10),
    aborts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 25)), max_size=6),
    depth=st.integers(0, 2),
)
def test_abort_leaks_nothing_and_disturbs_nobody(work, aborts, depth):
    engine = ToyEngine(engine_config(), num_blocks=18, depth=depth)
    entries = [request(number, prompt, tokens) for number, (prompt, tokens, _) in enumerate(work)]
    for entry in entries:
        engine.add(entry)
    for step in range(26):
        engine.scheduler.abort(0, [number for number, when in aborts if when == step])
        engine.step()
    engine.run()
    engine.scheduler.pool.check_integrity()
    aborted = {number for number, _ in aborts}
    for entry in entries:
        result = engine.results[0, entry.id]
        assert result.tokens == expected(entry)[: len(result.tokens)]
        assert entry.id in aborted or result.tokens == expected(entry)


def test_decoding_goes_on_while_a_long_prompt_is_computed_in_chunks():
    engine = ToyEngine(engine_config(max_num_batched_tokens=4), num_blocks=32, depth=0)
    engine.add(request(0, [5], 20, end_ids=()))
    engine.step()
    engine.add(request(1, list(range(1, 31)), 1))
    for _ in range(5):
        batch = engine.step()
        assert batch.query_lens.tolist() == [1, 3], "one token decodes, the rest of the budget is prompt"


def test_steps_of_the_same_sequences_share_what_does_not_change():
    engine = ToyEngine(engine_config(), num_blocks=32, depth=1)
    engine.add(request(0, [5, 6], 20, end_ids=()))
    engine.add(request(1, [7, 8, 9], 20, end_ids=()))
    engine.step()
    first, *others = [engine.step() for _ in range(8)]
    assert all(batch.slots is first.slots for batch in others)
    tables = [batch.block_tables for batch in (first, *others)]
    lengths = [batch.num_computed.tolist() for batch in (first, *others)]
    assert lengths == [[2 + step, 3 + step] for step in range(8)]
    for step, (before, table) in enumerate(itertools.pairwise(tables), 1):
        needs_block = any(length % BLOCK_SIZE == 0 for length in lengths[step])
        assert (table is before) != needs_block
    engine.add(request(2, [5], 20, end_ids=()))
    assert engine.step().slots is not first.slots
    assert engine.step().slots is not first.slots


@pytest.mark.parametrize("prompt", [[5], [5] * (2 * BLOCK_SIZE + 1)], ids=["one token", "cached but for one"])
def test_several_stages_are_told_the_tokens_of_a_sequence_that_starts_with_a_single_one(prompt):
    engine = ToyEngine(engine_config(stages=2, max_num_batched_tokens=64), num_blocks=16, depth=1)
    for number in range(2):
        entry = request(number, prompt, 6)
        engine.add(entry)
        engine.run()
        assert engine.results[0, number].tokens == expected(entry)


def test_a_step_gives_back_so_many_logits_of_prompts_and_computes_others_beside_them():
    vocab_size = MAX_CONTEXT_LOGITS_BYTES // (4 * 5)
    info = replace(INFO, vocab_size=vocab_size)
    engine = ToyEngine(engine_config(max_num_batched_tokens=12), num_blocks=32, depth=1, info=info)
    prompts = [list(range(1, 14)), list(range(2, 10)), [7] * 20]
    for number, prompt in enumerate(prompts):
        engine.add(replace(request(number, prompt, 2), wants_context_logits=number < 2))
    steps = []
    while engine.scheduler.stats.num_waiting or not engine.results[0, 1].tokens:
        batch = engine.step()
        steps.append([end - begin for begin, end in batch.context_logits])
    assert steps[:5] == [[5], [5], [3, 2], [5], [1]]
    engine.run()
    assert [engine.results[0, number].context_logits for number in range(3)] == [*prompts[:2], []]
    engine.scheduler.pool.check_integrity()


def test_equal_prefix_is_computed_once():
    engine = ToyEngine(engine_config(max_num_batched_tokens=64), num_blocks=32, depth=0)
    prompt = list(range(1, 18))
    engine.add(request(0, prompt, 4))
    engine.step()
    engine.add(request(1, [*prompt, 7], 4))
    batch = engine.step()
    assert batch.num_computed.tolist() == [17, 16]
    assert batch.block_tables[1][:4].tolist() == batch.block_tables[0][:4].tolist()
    assert engine.scheduler.stats.num_prefix_hit_tokens == 16


@pytest.mark.parametrize("budget", [64, 21, 5])
def test_samples_of_one_prompt_share_its_blocks_from_the_first_step_on(budget):
    engine = ToyEngine(engine_config(max_num_batched_tokens=budget), num_blocks=32, depth=0)
    prompt = list(range(1, 18))
    entries = [request(number, prompt, 4) for number in range(3)]
    for entry in entries:
        engine.add(entry)
    num_computed = 0
    while engine.scheduler.stats.num_waiting:
        batch = engine.step()
        num_computed += batch.num_tokens
    assert num_computed <= 17 + 3 + 3 * 4, (
        "the prompt, a last token for each, and what is generated meanwhile"
    )
    assert engine.scheduler.stats.num_prefix_hit_tokens == 2 * 16
    engine.run()
    for entry in entries:
        assert engine.results[0, entry.id].tokens == expected(entry)
    engine.scheduler.pool.check_integrity()


def test_prefix_outlives_its_request():
    engine = ToyEngine(engine_config(max_num_batched_tokens=64), num_blocks=32, depth=0)
    for number in range(2):
        engine.add(request(number, list(range(1, 18)), 4))
        engine.run()
    assert engine.scheduler.stats.num_prefix_hit_tokens == 16
    assert engine.results[0, 0].tokens == engine.results[0, 1].tokens


def test_preemption_takes_the_youngest_and_computes_it_again():
    engine = ToyEngine(engine_config(), num_blocks=8, depth=1)
    entries = [request(number, [number + 1] * 8, 20, end_ids=()) for number in range(2)]
    for entry in entries:
        engine.add(entry)
    engine.run()
    assert engine.scheduler.stats.num_preemptions > 0
    for entry in entries:
        tokens = list(entry.prompt)
        for _ in range(20):
            tokens.append(next_token(tokens))
        assert engine.results[0, entry.id].tokens == tokens[8:]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_stop_word_ends_the_request_and_stays_in_the_output(depth):
    free = request(0, [4, 4], 12, end_ids=())
    engine = ToyEngine(engine_config(), num_blocks=32, depth=depth)
    engine.add(free)
    engine.run()
    tokens = engine.results[0, 0].tokens
    engine.add(request(1, [4, 4], 12, end_ids=(), stop_words=(tuple(tokens[3:5]),)))
    engine.run()
    assert engine.results[0, 1].tokens == tokens[:5]
    assert engine.results[0, 1].finish_reason is FinishReason.STOP


def test_what_can_never_fit_fails_with_the_numbers_and_the_next_request_runs():
    engine = ToyEngine(engine_config(), num_blocks=2, depth=0)
    engine.add(request(0, [1] * 20, 4))
    engine.add(request(1, [1], 4))
    engine.run()
    assert "20 tokens need 5 KV cache blocks, the whole cache has 2" in engine.results[0, 0].error
    assert engine.results[0, 1].tokens == expected(request(1, [1], 4))


def test_full_queue_and_duplicate_id_are_refused():
    engine = ToyEngine(engine_config(max_queue_size=1), num_blocks=32, depth=0)
    engine.add(request(0, [1], 4))
    engine.add(request(1, [1], 4))
    engine.scheduler.add(0, request(0, [1], 4))
    outputs = {output.id: output.error for _, output in engine.scheduler.take_outputs()}
    assert "the queue is full: 1 requests wait" in outputs[1]
    assert "request id 0 is already in use" in outputs[0]


def test_a_client_that_leaves_takes_only_its_own_requests_along():
    engine = ToyEngine(engine_config(), num_blocks=32, depth=1)
    engine.add(request(0, [1, 2], 12, end_ids=()), client=0)
    engine.add(request(0, [3, 4], 12, end_ids=()), client=1)
    for _ in range(3):
        engine.step()
    engine.scheduler.drop_client(0)
    engine.run()
    assert len(engine.results[1, 0].tokens) == 12
    assert engine.results[0, 0].finish_reason is None
    engine.scheduler.pool.check_integrity()


def test_limits_of_the_toy_fit_its_model():
    assert INFO.max_model_len >= len(SHARED_PREFIX) + 30 + 20
