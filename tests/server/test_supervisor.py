# SPDX-License-Identifier: BSD-3-Clause
"""An engine that died is started again, also where a first try fails; no engine is needed for that."""

import queue
from collections.abc import Iterator

import pytest

from fastertransformer.errors import EngineDead, ModelLoadError
from fastertransformer.messages import EngineInfo, Outputs
from fastertransformer.server import supervisor
from fastertransformer.server.responder import Attached
from fastertransformer.server.supervisor import Supervisor

INFO = EngineInfo(model_type="none", vocab_size=9, max_model_len=9, start_id=0, end_ids=(), plan="")


class Client:
    """Says nothing until it is closed."""

    info = INFO

    def __init__(self) -> None:
        self.closed: queue.SimpleQueue[None] = queue.SimpleQueue()

    def outputs(self) -> Iterator[Outputs]:
        self.closed.get(timeout=60)
        raise EngineDead("it ended")

    def close(self) -> None:
        self.closed.put(None)


class Launcher:
    """Gives what it was told to give, one after the other."""

    def __init__(self, *answers: Client | Exception) -> None:
        self.answers = list(answers)

    def attach(self) -> Client:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def give_up(self) -> None:
        self.answers = []

    def detach(self, client: Client | None) -> None:
        if client is not None:
            client.close()


FAILURES = [ModelLoadError("no room on the GPU"), BlockingIOError("no more processes")]


@pytest.mark.parametrize("failure", FAILURES, ids=["engine", "machine"])
def test_a_restart_that_fails_is_tried_again(monkeypatch, failure):
    monkeypatch.setattr(supervisor, "_FIRST_DELAY_S", 0.0)
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    log: list[str] = []
    first, second = Client(), Client()
    supervised = Supervisor(Launcher(first, failure, second), events.put, log.append)
    try:
        assert events.get(timeout=60) == Attached(first)
        first.close()
        assert "may be sent again" in str(events.get(timeout=60))
        assert events.get(timeout=60) == Attached(second)
        assert supervised.is_ready
        assert f"the engine could not be restarted: {failure}" in log
    finally:
        supervised.stop()
