# SPDX-License-Identifier: BSD-3-Clause
"""The window of steps that a profile covers, on outputs made by hand."""

import pytest

from fastertransformer.cli.bench.recorder import Recorder
from fastertransformer.cli.bench.watcher import Watcher
from fastertransformer.cli.bench.workload import Workload
from fastertransformer.errors import FasterTransformerError
from fastertransformer.messages import EngineInfo, EngineStats, FinishReason, Output

INFO = EngineInfo(model_type="llama", vocab_size=50, max_model_len=64, start_id=1, end_ids=(), plan="")


class Noting(Recorder):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def wait(self) -> None:
        self.calls.append("wait")

    def begin(self) -> None:
        self.calls.append("begin")

    def end(self) -> None:
        self.calls.append("end")


def watch(workload: Workload, max_num_seqs: int = 64) -> tuple[Watcher, Noting]:
    """A watcher whose requests were taken."""
    recorder = Noting()
    watcher = Watcher(workload, INFO, max_num_seqs, recorder)
    ((_, message),) = watcher.receive(patience=None)
    assert [request.id for request in message.requests] == list(range(workload.batch))
    assert watcher.receive(patience=None) == []
    return watcher, recorder


def step(watcher: Watcher, ids: range, last: bool = False) -> None:
    reason = FinishReason.LENGTH if last else None
    watcher.send([(0, Output(i, (1,), finish_reason=reason)) for i in ids], EngineStats())


def test_window_begins_when_all_run_and_ends_with_the_first_that_is_done():
    watcher, recorder = watch(Workload(3, 4, 10, 50))
    step(watcher, range(2))  # the third one's prompt is not done
    step(watcher, range(0))
    for _ in range(3):
        step(watcher, range(3))
    assert recorder.calls == ["wait", "begin"]
    for _ in range(5):
        step(watcher, range(3))
    step(watcher, range(3), last=True)
    assert recorder.calls == ["wait", "begin", "wait", "end"]
    assert watcher.num_steps == 6
    assert watcher.us_per_step > 0
    assert not watcher.is_open


def test_window_is_bounded():
    watcher, recorder = watch(Workload(1, 4, 100, 50))
    for _ in range(60):
        step(watcher, range(1))
    assert recorder.calls.count("end") == 1
    assert watcher.num_steps == 20
    assert watcher.is_open


def test_more_requests_than_run_at_once():
    watcher, recorder = watch(Workload(5, 4, 10, 50), max_num_seqs=2)
    for _ in range(9):
        step(watcher, range(2))
    step(watcher, range(2), last=True)
    assert recorder.calls == ["wait", "begin", "wait", "end"]
    assert watcher.is_open


def test_a_single_token_makes_the_run_the_window():
    watcher, recorder = watch(Workload(2, 4, 1, 50))
    assert recorder.calls == ["wait", "begin"]
    step(watcher, range(1), last=True)
    assert watcher.is_open
    step(watcher, range(1, 2), last=True)
    assert recorder.calls == ["wait", "begin", "wait", "end"]
    assert watcher.num_steps == 1


def test_requests_that_never_run_together_have_no_window():
    watcher, recorder = watch(Workload(2, 4, 8, 50))
    for i in range(2):
        step(watcher, range(i, i + 1), last=True)
    assert recorder.calls == []
    with pytest.raises(FasterTransformerError, match="2 requests never ran together"):
        _ = watcher.us_per_step


def test_a_failed_request_ends_it_with_the_engines_words():
    watcher, _ = watch(Workload(1, 4, 8, 50))
    failed = Output(0, finish_reason=FinishReason.ERROR, error="the cache is too small")
    with pytest.raises(FasterTransformerError, match="the cache is too small"):
        watcher.send([(0, failed)], EngineStats())
