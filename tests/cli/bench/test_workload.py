# SPDX-License-Identifier: BSD-3-Clause
"""Workloads as text, their prompts, and the figures of a run."""

import pytest

from fastertransformer.cli.bench.workload import Sizes, Workload, measure, median, parse_workloads, spread
from fastertransformer.errors import FasterTransformerError


def test_workloads_as_text():
    assert parse_workloads("1x1024/1, 512x512/128") == [Sizes(1, 1024, 1), Sizes(512, 512, 128)]
    assert parse_workloads("64x8-128") == [Sizes(64, 128, shortest_input=8)]
    assert parse_workloads("32x16-128/8-64") == [Sizes(32, 128, 64, 16, 8)]
    assert parse_workloads("") == []


@pytest.mark.parametrize("text", ["8x128/", "8x128/0", "ax1/1", "1x1/1;2x2/2", "1x2-/3"])
def test_other_text_is_refused(text):
    with pytest.raises(FasterTransformerError, match="is not of the form REQUESTSxINPUT/OUTPUT"):
        parse_workloads(text)


@pytest.mark.parametrize("text", ["8x128-64/8", "8x64/9-8"])
def test_ranges_rise(text):
    with pytest.raises(FasterTransformerError, match="has a range that falls"):
        parse_workloads(text)


def test_lengths_are_spread_over_their_range():
    workload = Workload(4, 40, 9, 1000, shortest_input=10, shortest_output=3)
    assert sorted(workload.input_lens) == [10, 20, 30, 40]
    assert sorted(workload.output_lens) == [3, 5, 7, 9]
    assert [len(prompt) for prompt in workload.prompts()] == workload.input_lens
    assert Workload(2, 40, 9, 1000).output_lens == [9, 9]


@pytest.mark.parametrize(
    ("workload", "text"),
    [
        (Workload(4, 40, 9, 1000), "4x40/9"),
        (Workload(4, 40, 9, 1000, shortest_input=10, shortest_output=3, beam_width=2), "4*2x10-40/3-9"),
        (Workload(4, 40, 0, 1000), "4x40"),
    ],
)
def test_a_workload_as_text(workload, text):
    assert str(workload) == text


def test_tokens_that_come_together_are_spread_over_the_time_before():
    assert spread(2.0, 4) == [0.5, 1.0, 1.5, 2.0]


def test_prompts_repeat_and_differ_from_each_other():
    workload = Workload(3, 20, 4, 1000)
    prompts = workload.prompts()
    assert prompts == workload.prompts()
    assert [len(prompt) for prompt in prompts] == [20, 20, 20]
    assert prompts[0] != prompts[1]
    assert all(100 <= token < 1000 for prompt in prompts for token in prompt)


def test_figures_of_a_run():
    run = measure([[0.5, 0.6, 0.8], [0.7, 0.8, 0.9]], [[1, 2, 3], [4, 5, 6]])
    assert run.ttft_ms == pytest.approx(600)
    assert run.token_ms_p50 == pytest.approx(100)
    assert run.token_ms_p99 == pytest.approx(200)
    assert run.total_ms == pytest.approx(900)
    assert run.tokens_per_second == pytest.approx(6 / 0.9)


def test_the_median_run_is_one_of_them():
    runs = [measure([[seconds]], [[1]]) for seconds in (3.0, 1.0, 2.0, 9.0)]
    assert median(runs) is runs[0]
