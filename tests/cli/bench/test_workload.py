# SPDX-License-Identifier: BSD-3-Clause
"""Workloads as text, their prompts, and the figures of a run."""

import pytest

from fastertransformer.cli.bench.workload import Workload, measure, median, parse_workloads
from fastertransformer.errors import FasterTransformerError


def test_workloads_as_text():
    assert parse_workloads("1x1024/1, 512x512/128") == [(1, 1024, 1), (512, 512, 128)]
    assert parse_workloads("") == []


@pytest.mark.parametrize("text", ["8x128", "8x128/0", "ax1/1", "1x1/1;2x2/2"])
def test_other_text_is_refused(text):
    with pytest.raises(FasterTransformerError, match="is not of the form REQUESTSxINPUT/OUTPUT"):
        parse_workloads(text)


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
