# SPDX-License-Identifier: BSD-3-Clause
"""A token that came although it is banned ends its request, and no other."""

import pytest
from toy_engine import INFO, ToyEngine, engine_config, expected, request

from fastertransformer.engine.bans import is_stuck
from fastertransformer.engine.sequence import Sequence
from fastertransformer.messages import FinishReason, token_ids

PROMPT = (5, 0, 7)
CASES = {
    "nothing is banned": (False, (), {}),
    "word": (True, (), {"bad_words": ((0,),)}),
    "another word": (False, (), {"bad_words": ((7,), (7, 5))}),
    "end of a word": (True, (9,), {"bad_words": ((3,), (7, 9, 0))}),
    "end of another word": (False, (9,), {"bad_words": ((8, 9, 0),)}),
    "word longer than the row": (False, (), {"bad_words": ((4, 5, 0, 7, 0),)}),
    "end too early": (True, (8,), {"min_length": 3}),
    "end in time": (False, (8,), {"min_length": 2}),
    "token once more": (True, (), {"no_repeat_ngram_size": 1}),
    "n-gram once more": (True, (5,), {"no_repeat_ngram_size": 2}),
    "another n-gram": (False, (4,), {"no_repeat_ngram_size": 2}),
    "n-gram longer than the row": (False, (), {"no_repeat_ngram_size": 4}),
}


def sequence(output: tuple[int, ...] = (), prompt: tuple[int, ...] = PROMPT, **sampling: object) -> Sequence:
    return Sequence(0, request(1, list(prompt), 9, **sampling), INFO.end_ids, token_ids((*prompt, *output)))


@pytest.mark.parametrize("case", CASES)
def test_what_is_banned(case):
    is_banned, output, sampling = CASES[case]
    assert is_stuck(sequence(output, **sampling), 0) == is_banned


def test_what_is_no_token_repeats_nothing():
    """Rows of a table in front of the prompt."""
    assert not is_stuck(sequence((-1,), (-1, 0, 7), no_repeat_ngram_size=2), 0)
    assert not is_stuck(sequence((), (-1, -2), no_repeat_ngram_size=1), 0)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_request_without_a_token_to_take_fails_alone(depth):
    """The toy draws what it likes: here the first token, which is the end id, where it is banned."""
    prompt = next(p for p in range(1, 1000) if expected(request(0, [p], 30))[3:4] == [0])
    engine = ToyEngine(engine_config(), 40, depth)
    engine.add(request(1, [prompt], 30, bad_words=((0,),)))
    engine.add(request(2, [prompt], 30))
    engine.run()
    failed, other = engine.results[0, 1], engine.results[0, 2]
    assert failed.finish_reason is FinishReason.ERROR
    assert "leave no token to take after 3 new tokens" in failed.error
    assert other.tokens == expected(request(2, [prompt], 30))
    assert engine.scheduler.pool.num_free == 40


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf")])
def test_a_log_probability_is_a_number(logprob):
    entry = Sequence(0, request(1, [5], 9, logprobs=True), (), token_ids((5,)))
    assert entry.append(3, logprob).logprobs == (-1e20,)
