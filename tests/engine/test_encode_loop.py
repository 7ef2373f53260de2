# SPDX-License-Identifier: BSD-3-Clause
"""The engine's loop around an encoder: what it does while a step is computed."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from msgspec.structs import replace
from toy_engine import INFO, engine_config

from fastertransformer.engine.encode_batch import EncodeBatch, EncodeResult
from fastertransformer.engine.encode_scheduler import EncodeScheduler
from fastertransformer.engine.engine import Engine
from fastertransformer.messages import EncodeRequest, EncoderInfo, Submit, token_ids
from fastertransformer.parallel.world import LocalControl

SUM = ("sum",)
FACTS = EncoderInfo(hidden_size=2, num_token_types=0, outputs=SUM)


@dataclass
class Neighbours:
    """A client with one message and a runner; they note what happens in which order."""

    message: Submit
    left: int
    events: list[str] = field(default_factory=list)
    num_executed: int = 0

    @property
    def is_open(self) -> bool:
        return self.left > 0

    def receive(self, patience: float | None) -> list[tuple[int, Submit]]:
        message, self.message = self.message, None
        return [(0, message)] if message else []

    def send(self, outputs, stats) -> None:
        numbers = [output.id for _, output in outputs]
        self.left -= len(numbers)
        if numbers:
            self.events.append(f"send {numbers}")

    def execute(self, batch: EncodeBatch) -> "Step":
        step = Step(self, self.num_executed, batch)
        self.num_executed += 1
        self.events.append(f"launch {step.number}")
        return step


@dataclass
class Step:
    """One that was launched."""

    neighbours: Neighbours
    number: int
    batch: EncodeBatch

    def result(self) -> EncodeResult:
        self.neighbours.events.append(f"wait {self.number}")
        return EncodeResult(tuple({"sum": np.ones(1, np.float32)} for _ in self.batch.lengths))


@pytest.mark.parametrize(
    ("depth", "events"),
    [
        (
            0,
            [
                "launch 0",
                "wait 0",
                "send [0, 1]",
                "launch 1",
                "wait 1",
                "send [2, 3]",
                "launch 2",
                "wait 2",
                "send [4]",
            ],
        ),
        (
            1,
            [
                "launch 0",
                "launch 1",
                "wait 0",
                "send [0, 1]",
                "launch 2",
                "wait 1",
                "send [2, 3]",
                "wait 2",
                "send [4]",
            ],
        ),
    ],
)
def test_results_are_sent_while_the_next_step_is_computed(depth, events):
    requests = [EncodeRequest(id=number, tokens=token_ids((1,) * 4), outputs=SUM) for number in range(5)]
    neighbours = Neighbours(Submit(requests), len(requests))
    scheduler = EncodeScheduler(engine_config(), lambda request: 1)
    info = replace(INFO, encoder=FACTS)
    Engine(info, neighbours, scheduler, LocalControl(), neighbours, depth).serve()
    assert neighbours.events == events
