# SPDX-License-Identifier: BSD-3-Clause
"""Groups of beams in the scheduler find what a search without blocks finds, and leak nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_engine import INFO, ToyEngine, engine_config, expected, next_logprobs, request, top

from fastertransformer.config import BEAM_SEARCH_RULES
from fastertransformer.engine.beam_rules import (
    Candidate,
    Path,
    Rule,
    Step,
    choose_rule,
    forced_path,
    num_candidates,
)
from fastertransformer.messages import Beam, FinishReason, Request

PROMPTS = st.lists(st.integers(1, 3), min_size=1, max_size=18)
WIDTHS = st.sampled_from([1, 2, 3, 5])


def searched(entry: Request, rule_name: str) -> tuple[Beam, ...]:
    """What a beam search over plain lists finds."""
    sampling, end_ids = entry.sampling, entry.sampling.end_ids
    end_ids = INFO.end_ids if end_ids is None else end_ids
    rule = choose_rule(rule_name, sampling, end_ids, len(entry.prompt), bool(entry.encoder_tokens))
    count = num_candidates(sampling.beam_width, len(end_ids))
    beams = [([*entry.prompt, *entry.forced_tokens], forced_path(entry.forced_tokens))]

    def ends(beam: int, token: int) -> bool:
        tokens = [*beams[beam][0], token]
        return token in end_ids or any(tokens[-len(word) :] == list(word) for word in sampling.stop_words)

    while True:
        pairs = [top(next_logprobs([*entry.encoder_tokens, *tokens]), count) for tokens, _ in beams]
        paths = [path for _, path in beams]
        is_last = paths[0].length + 1 == sampling.max_tokens
        choices = rule.advance(Step(paths, best_of(rule, paths, pairs), ends, is_last))
        if not choices:
            return tuple(path.as_beam() for path in rule.ended)
        beams = [([*beams[parent][0], path.token], path) for parent, path in choices]


def best_of(rule: Rule, paths: list[Path], pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[Candidate]:
    """One search's candidates, ordered one by one."""
    count, width, rate = rule.preference
    norm = rule.norm(paths[0].length + 1)
    candidates = []
    for beam, (path, arrays) in enumerate(zip(paths, pairs, strict=True)):
        for rank, (token, logprob) in enumerate(zip(*arrays, strict=True)):
            score = np.float32(path.score) + logprob
            preferred = score / norm + np.float32(rate) * np.float32(rank % width)
            candidates.append(Candidate(beam, int(token), float(logprob), float(score), float(preferred)))
    return sorted(candidates, key=lambda candidate: -candidate.preferred)[:count]


def check(engine: ToyEngine, entry: Request, rule: str) -> None:
    result = engine.results[0, entry.id]
    if entry.sampling.beam_width == 1:
        assert result.tokens == expected(entry)
    else:
        assert result.beams == searched(entry, rule)


@pytest.mark.parametrize("rule", BEAM_SEARCH_RULES)
@pytest.mark.parametrize("penalty", [3e38, -3e38])
def test_a_length_penalty_beyond_all_numbers_ends_no_engine(rule, penalty):
    engine = ToyEngine(engine_config(beam_search_rule=rule), num_blocks=16, depth=0)
    engine.add(request(0, [1, 2], 4, beam_width=2, length_penalty=penalty))
    engine.run()
    assert engine.results[0, 0].finish_reason is not None


@st.composite
def requests(draw):
    options = {
        "beam_width": draw(WIDTHS),
        "length_penalty": draw(st.sampled_from([0.0, 1.0, -0.5])),
        "early_stopping": draw(st.booleans()),
        "diversity_rate": draw(st.sampled_from([0.0, 0.3])),
    }
    return draw(PROMPTS), draw(st.integers(1, 14)), draw(st.integers(0, 20)), options


@settings(max_examples=300, deadline=None)
@given(
    work=st.lists(requests(), min_size=1, max_size=8),
    num_blocks=st.integers(28, 60),
    budget=st.integers(1, 24),
    max_num_seqs=st.integers(5, 9),
    shape=st.sampled_from([(0, 1), (1, 1), (2, 2), (3, 3)]),
    reuse=st.booleans(),
    rule=st.sampled_from(BEAM_SEARCH_RULES),
)
def test_same_beams_whatever_the_schedule(work, num_blocks, budget, max_num_seqs, shape, reuse, rule):
    depth, stages = shape
    config = engine_config(
        max_num_batched_tokens=budget,
        max_num_seqs=max_num_seqs,
        stages=stages,
        reuse=reuse,
        beam_search_rule=rule,
    )
    engine = ToyEngine(config, num_blocks, depth)
    entries = [request(number, prompt, new, **more) for number, (prompt, new, _, more) in enumerate(work)]
    for step in range(21):
        for entry, (_, _, arrival, _) in zip(entries, work, strict=True):
            if arrival == step:
                engine.add(entry)
        engine.step()
    engine.run()
    for entry in entries:
        check(engine, entry, rule)
    engine.scheduler.pool.check_integrity()
    assert sorted(engine.scheduler._free_slots) == list(range(max_num_seqs))


@settings(max_examples=150, deadline=None)
@given(
    work=st.lists(requests(), min_size=2, max_size=8),
    aborts=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 25)), max_size=6),
    depth=st.integers(0, 2),
)
def test_abort_leaks_nothing_and_disturbs_nobody(work, aborts, depth):
    engine = ToyEngine(engine_config(max_num_seqs=6), num_blocks=30, depth=depth)
    entries = [request(number, prompt, new, **more) for number, (prompt, new, _, more) in enumerate(work)]
    for entry in entries:
        engine.add(entry)
    for step in range(26):
        engine.scheduler.abort(0, [number for number, when in aborts if when == step])
        engine.step()
    engine.run()
    engine.scheduler.pool.check_integrity()
    assert sorted(engine.scheduler._free_slots) == list(range(6))
    for entry in entries:
        if engine.results[0, entry.id].finish_reason is not FinishReason.ABORTED:
            check(engine, entry, "huggingface")


@pytest.mark.parametrize("rule", BEAM_SEARCH_RULES)
def test_groups_are_preempted_whole_and_computed_again(rule):
    engine = ToyEngine(engine_config(max_num_seqs=8, beam_search_rule=rule), num_blocks=13, depth=1)
    entries = [
        request(number, [1, 2, number, 1, 2], 24, end_ids=(), beam_width=4, length_penalty=1.0)
        for number in range(2)
    ]
    for entry in entries:
        engine.add(entry)
    engine.run()
    assert engine.scheduler.stats.num_preemptions > 0, "the cache was too large for what this test is about"
    for entry in entries:
        assert len(engine.results[0, entry.id].beams) == 4
        assert {len(beam.tokens) for beam in engine.results[0, entry.id].beams} == {24}
        check(engine, entry, rule)
    engine.scheduler.pool.check_integrity()


def test_the_prompt_is_computed_once_and_its_blocks_are_shared():
    engine = ToyEngine(engine_config(max_num_seqs=4, max_num_batched_tokens=64), num_blocks=32, depth=0)
    engine.add(request(0, [1] * 9, 6, beam_width=4))
    first, second = engine.step(), engine.step()
    assert first.query_lens.tolist() == [9]
    assert second.query_lens.tolist() == [1] * 4
    assert len({tuple(row[:2]) for row in second.block_tables.tolist()}) == 1
    assert len({row[2] for row in second.block_tables.tolist()}) == 4
    assert second.beams.block_copies.shape == (2, 3), "the last beam that reads a block writes to it"


def test_beams_of_one_token_need_no_blocks_beside_the_prompts():
    """Which fills its last block, and the cache."""
    entry = request(0, [1] * 16, 1, beam_width=4)
    engine = ToyEngine(engine_config(), num_blocks=4, depth=0)
    engine.add(entry)
    engine.run()
    assert engine.results[0, 0].error == ""
    check(engine, entry, "huggingface")


def test_others_go_on_while_beams_wait_for_their_result():
    engine = ToyEngine(engine_config(max_num_seqs=4), num_blocks=32, depth=1)
    engine.add(request(0, [5], 12, end_ids=()))
    engine.add(request(1, [1], 12, beam_width=3))
    sizes = [len(engine.step().slots) for _ in range(6)]
    assert sizes == [2, 1, 4, 1, 4, 1]


def test_stop_words_end_beams():
    entry = request(0, [1, 2], 10, beam_width=3)
    word = (2, *searched(entry, "huggingface")[0].tokens[:1])
    stopped = request(1, [1, 2], 10, beam_width=3, stop_words=(word,), early_stopping=True)
    engine = ToyEngine(engine_config(), num_blocks=32, depth=0)
    engine.add(stopped)
    engine.run()
    beams = engine.results[0, 1].beams
    assert beams == searched(stopped, "huggingface")
    assert any(beam.tokens == word[1:] for beam in beams)


def test_every_step_is_told_when_that_is_asked_for():
    entry = request(0, [1, 2], 5, end_ids=(), beam_width=3, reports_beams=True)
    engine = ToyEngine(engine_config(), num_blocks=32, depth=0)
    engine.add(entry)
    lengths = []
    while not engine.scheduler.idle:
        engine.step()
        lengths.append([len(beam.tokens) for beam in engine.results[0, 0].beams])
    assert lengths == [[n] * 3 for n in range(1, 6)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_scores_are_the_sums_of_the_log_probabilities(count):
    engine = ToyEngine(engine_config(max_num_seqs=5), num_blocks=60, depth=0)
    engine.add(request(0, [1, 2, 3], 9, beam_width=5))
    engine.run()
    for beam in engine.results[0, 0].beams[:count]:
        tokens, logprobs = [1, 2, 3], []
        for token in beam.tokens:
            logprobs.append(float(next_logprobs(tokens)[token]))
            tokens.append(token)
        assert list(beam.logprobs) == logprobs
        assert beam.cum_logprob == pytest.approx(sum(logprobs), abs=1e-5)
