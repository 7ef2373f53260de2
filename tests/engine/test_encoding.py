# SPDX-License-Identifier: BSD-3-Clause
"""Encoder-decoders in the scheduler: inputs are encoded whole, nothing is shared, leaked or starved."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from test_beams import check
from toy_engine import ENCODING, ToyEngine, engine_config

from fastertransformer.config import BEAM_SEARCH_RULES
from fastertransformer.engine.batch import Batch
from fastertransformer.messages import FinishReason, Request, SamplingParams, token_ids

TOKENS = st.integers(1, 9)


def request(number: int, encoder_len: int, max_tokens: int, *forced: int) -> Request:
    tokens = tuple((7 * i + number) % 90 + 1 for i in range(encoder_len))
    return Request(
        number,
        token_ids((3,)),
        SamplingParams(max_tokens=max_tokens),
        encoder_tokens=token_ids(tokens),
        forced_tokens=forced,
    )


@st.composite
def requests(draw):
    """With an arrival."""
    encoder_tokens = tuple(draw(st.lists(TOKENS, min_size=1, max_size=40)))
    prompt = tuple(draw(st.lists(TOKENS, min_size=1, max_size=5)))
    width = draw(st.sampled_from([1, 1, 2, 3]))
    sampling = SamplingParams(max_tokens=draw(st.integers(1, 20)), beam_width=width)
    forced = tuple(draw(st.lists(TOKENS, max_size=min(2, sampling.max_tokens - (width > 1)))))
    return Request(
        0, token_ids(prompt), sampling, encoder_tokens=token_ids(encoder_tokens), forced_tokens=forced
    ), draw(st.integers(0, 30))


@settings(max_examples=300, deadline=None)
@given(
    work=st.lists(requests(), min_size=1, max_size=12),
    num_blocks=st.integers(32, 60),
    budget=st.integers(1, 48),
    max_num_seqs=st.integers(3, 6),
    shape=st.sampled_from([(0, 1), (1, 1), (2, 2), (3, 3)]),
    rule=st.sampled_from(BEAM_SEARCH_RULES),
)
def test_same_tokens_whatever_the_schedule(work, num_blocks, budget, max_num_seqs, shape, rule):
    depth, stages = shape
    config = engine_config(
        max_num_batched_tokens=budget, max_num_seqs=max_num_seqs, stages=stages, beam_search_rule=rule
    )
    engine = ToyEngine(config, num_blocks, depth, ENCODING)
    entries = [(arrival, replace(given, id=number)) for number, (given, arrival) in enumerate(work)]
    for step in range(31):
        for arrival, entry in entries:
            if arrival == step:
                engine.add(entry)
        engine.step()
    engine.run()
    for _, entry in entries:
        check(engine, entry, rule)
    engine.scheduler.pool.check_integrity()


def steps_of(engine: ToyEngine, count: int) -> list[Batch]:
    return [batch for _ in range(count) if (batch := engine.step()) is not None]


def cost(batch: Batch) -> int:
    """Tokens that the step computes, those of encoders included."""
    return batch.num_tokens + sum(len(admission.encoder_tokens) for admission in batch.admissions)


def test_several_inputs_share_a_step_within_the_budget():
    engine = ToyEngine(engine_config(max_num_batched_tokens=24), 40, 0, ENCODING)
    for number in range(4):
        engine.add(request(number, 9, 5))
    first, second = steps_of(engine, 2)
    assert [len(first.admissions), len(second.admissions)] == [2, 2]
    assert max(cost(first), cost(second)) <= 24


def test_an_input_longer_than_the_budget_has_a_step_of_its_own_and_others_go_on():
    engine = ToyEngine(engine_config(max_num_batched_tokens=8), 60, 0, ENCODING)
    engine.add(request(0, 3, 20))
    engine.step()
    for number in (1, 2):
        engine.add(request(number, 30, 5))
    batches = steps_of(engine, 4)
    assert [len(batch.admissions) for batch in batches] == [1, 0, 1, 0]
    assert [len(batch.slots) for batch in batches] == [1, 2, 1, 3]


def test_equal_inputs_share_nothing():
    engine = ToyEngine(engine_config(reuse=1), 40, 0, ENCODING)
    for number in (0, 7):
        engine.add(
            Request(
                number,
                token_ids((3,) * 9),
                SamplingParams(max_tokens=3),
                encoder_tokens=token_ids((number + 1,) * 5),
            )
        )
        engine.run()
    assert engine.scheduler.stats.num_prefix_hit_tokens == 0


def test_forced_tokens_may_be_the_whole_output():
    engine = ToyEngine(engine_config(), 40, 0, ENCODING)
    for number, forced in enumerate([(5,), (5, 0)]):
        engine.add(request(number, 4, len(forced), *forced))
    engine.run()
    assert [engine.results[0, number].tokens for number in (0, 1)] == [[5], [5, 0]]
    reasons = [engine.results[0, number].finish_reason for number in (0, 1)]
    assert reasons == [FinishReason.LENGTH, FinishReason.STOP]


def test_a_search_finds_what_is_forced_once():
    engine = ToyEngine(engine_config(), 40, 0, ENCODING)
    sampling = SamplingParams(max_tokens=1, beam_width=3)
    asked = Request(0, token_ids((3,)), sampling, encoder_tokens=token_ids((5,)), forced_tokens=(7,))
    engine.add(asked)
    engine.run()
    assert [tuple(beam.tokens) for beam in engine.results[0, 0].beams] == [(7,)]
