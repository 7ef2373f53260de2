# SPDX-License-Identifier: BSD-3-Clause
"""Time given to kernels and gaps, on traces made by hand."""

import pytest

from fastertransformer.cli.bench.trace import Interval, account, device_intervals, short_name


def test_overlaps_count_once_and_gaps_belong_to_device_or_host():
    """Two graphs of two kernels: the second starts while the first runs; a pause inside, one between."""
    result = account(
        [
            Interval(30.0, 34.0, "b", 2),
            Interval(0.0, 10.0, "a", 1),
            Interval(8.0, 15.0, "b", 1),
            Interval(25.0, 27.0, "a", 2),
        ]
    )
    assert result.times == {"a": 12.0, "b": 9.0}
    assert result.calls == {"a": 2, "b": 2}
    assert result.busy == 21.0
    assert result.gaps_between == 10.0
    assert result.gaps_within == 3.0


def test_a_kernel_within_another_takes_no_time_of_its_own():
    result = account([Interval(0.0, 10.0, "a", 1), Interval(2.0, 5.0, "b", 1), Interval(12.0, 13.0, "b", 1)])
    assert result.times == {"a": 10.0, "b": 1.0}
    assert result.gaps_within == 2.0


def test_nothing_ran():
    assert account([]).busy == 0


def test_only_what_ran_on_the_device_is_taken_from_a_trace():
    events = [
        {"ph": "X", "cat": "kernel", "name": "k", "ts": 5.0, "dur": 2.0, "args": {"correlation": 7}},
        {"ph": "X", "cat": "gpu_memcpy", "name": "copy", "ts": 1.0, "dur": 1.0, "args": {"correlation": 6}},
        {
            "ph": "X",
            "cat": "cuda_runtime",
            "name": "launch",
            "ts": 0.0,
            "dur": 1.0,
            "args": {"correlation": 7},
        },
        {"ph": "M", "name": "process_name", "args": {}},
    ]
    assert device_intervals({"traceEvents": events}) == [
        Interval(5.0, 7.0, "k", 7),
        Interval(1.0, 2.0, "copy", 6),
    ]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void ft::cuda::(anonymous namespace)::norm<float, 4>(float*, int)", "ft::cuda::norm<float, 4>"),
        ("void f<(Kind)1, g(int)>(int)", "f<(Kind)1, g(int)>"),
        ("Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD"),
        ("sm90_xmma_gemm_bf16", "sm90_xmma_gemm_bf16"),
    ],
)
def test_short_names(name, short):
    assert short_name(name) == short
