# SPDX-License-Identifier: BSD-3-Clause
"""Who runs when."""

import time

from fastertransformer.cli.bench.compare import Schedule, take_turns
from fastertransformer.cli.bench.workload import Workload


def test_systems_take_turns_and_rest_before_every_run(monkeypatch):
    events = []
    monkeypatch.setattr(time, "sleep", events.append)

    class Recorded:
        def __init__(self, name):
            self.name = name

        def run(self, workload):
            events.append(self.name)

    systems = {name: Recorded(name) for name in ("engine", "peer")}
    assert take_turns(systems, Workload(1, 4, 5, 100), Schedule(repetitions=1, pause=0.5)) == {}
    assert events == [0.5, "engine", 0.5, "peer"] * 2
