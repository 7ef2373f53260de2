# SPDX-License-Identifier: BSD-3-Clause
"""Whatever goes wrong with an answer, its client hears of it, and the others are answered."""

import queue
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from fastertransformer.errors import InvalidRequest, Overloaded
from fastertransformer.messages import (
    EngineStats,
    FinishReason,
    Output,
    Outputs,
    Request,
    SamplingParams,
    token_ids,
)
from fastertransformer.server.call import Row
from fastertransformer.server.metrics import Metrics
from fastertransformer.server.responder import Attached, Exchange, Responder


class Engine:
    """Takes requests, but for one that cannot be sent to it."""

    def __init__(self, refused: int = -1, error: Exception | None = None) -> None:
        self._refused, self._error = refused, error

    def submit(self, requests: Sequence[Request]) -> None:
        if self._error is not None and requests[0].id == self._refused:
            raise self._error

    def abort(self, ids: Sequence[int]) -> None: ...


class Call:
    """One row, whose tokens are the answer."""

    streams = has_news = False

    def __init__(self, number: int, error: Exception | None) -> None:
        self.rows = [Row(Request(number, token_ids((1,)), SamplingParams(max_tokens=1)))]
        self._error = error

    def advance(self) -> Sequence[int]:
        return ()

    def take_outputs(self) -> Mapping[str, Any]:
        if self._error is not None:
            raise self._error
        return {"tokens": self.rows[0].tokens}


class Reply:
    """Puts what it is told into a queue; cannot send where it has an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.heard: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._error = error

    def send(self, outputs: Mapping[str, Any], final: bool) -> None:
        if self._error is not None:
            raise self._error
        self.heard.put((outputs, final))

    def fail(self, error: Exception) -> None:
        self.heard.put(error)

    def is_cancelled(self) -> bool:
        return False


@pytest.mark.parametrize("stage", ["submit", "compute", "send"])
def test_an_answer_that_fails_is_an_error_of_its_client_alone(stage):
    failure, log = ValueError("too large"), []
    failing = Reply(failure if stage == "send" else None)
    replies = {1: failing, 2: Reply()}
    responder = Responder(Metrics(), log.append)
    try:
        responder.post(Attached(Engine(1, failure) if stage == "submit" else Engine()))
        for number, reply in replies.items():
            error = failure if stage == "compute" and reply is failing else None
            responder.post(Exchange(Call(number, error), reply))
        for number in replies:
            ended = Output(number, (4,), finish_reason=FinishReason.LENGTH)
            responder.post(Outputs([ended], EngineStats()))
        assert failing.heard.get(timeout=60) is failure
        assert replies[2].heard.get(timeout=60) == ({"tokens": [4]}, True)
    finally:
        responder.stop()
    assert all(reply.heard.empty() for reply in replies.values())
    assert "ValueError: too large" in "".join(log)


@pytest.mark.parametrize(("may_retry", "kind"), [(True, Overloaded), (False, InvalidRequest)])
def test_a_client_hears_whether_to_try_again(may_retry, kind):
    reply = Reply()
    responder = Responder(Metrics(), [].append)
    try:
        responder.post(Attached(Engine()))
        responder.post(Exchange(Call(1, None), reply))
        refused = Output(1, finish_reason=FinishReason.ERROR, error="no room", may_retry=may_retry)
        responder.post(Outputs([refused], EngineStats()))
        error = reply.heard.get(timeout=60)
    finally:
        responder.stop()
    assert type(error) is kind
    assert str(error) == "no room"
