# SPDX-License-Identifier: BSD-3-Clause
"""One Triton request in flight: what its rows have generated so far. The responder's thread owns it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ..messages import Beam, EngineInfo, FinishReason, Output
from .protocol import Array


class Reply(Protocol):
    """The way back to one client."""

    def send(self, outputs: Mapping[str, Array], final: bool) -> None:
        """Blocks until the server has taken the response."""
        ...

    def fail(self, error: Exception) -> None:
        """Ends the request with an error."""
        ...

    def is_cancelled(self) -> bool:
        """Asks the server: slow, not for every token."""
        ...


@dataclass(slots=True)
class Row:
    """One row of the batch, one request of the engine."""

    request: Any
    """Request or EncodeRequest, as the contract made it."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    beams: tuple[Beam, ...] = ()
    """Of a beam search, best first, instead of `tokens` and `logprobs`."""
    finish_reason: FinishReason | None = None
    context: bytes = b""
    """Sum of the prompt's hidden states, float32, once it has come."""
    context_logits: bytes = b""
    """[prompt, vocabulary] float32, once they have come."""
    logits: list[bytes] = field(default_factory=list)
    """[vocabulary] float32 of each of `tokens`, where they are wanted."""
    since: float = field(default_factory=time.monotonic)
    """Time of the last tokens, at first of the arrival."""

    def update(self, output: Output, now: float) -> None:
        self.since = now
        self.tokens += output.tokens
        self.logprobs += output.logprobs
        self.arrays |= output.arrays
        self.beams = output.beams
        self.finish_reason = output.finish_reason
        self.context = self.context or output.context
        self.context_logits = self.context_logits or output.context_logits
        if output.logits:
            self.logits.append(output.logits)


class Call(Protocol):
    """A contract's view of one Triton request."""

    @property
    def rows(self) -> Sequence[Row]: ...

    @property
    def streams(self) -> bool:
        """Whether the client wants what there is after every step."""
        ...

    def advance(self) -> Sequence[int]:
        """Takes in what the rows got; returns ids of requests that the engine need not go on with."""
        ...

    @property
    def has_news(self) -> bool:
        """Whether there is something to send before the end."""
        ...

    def take_outputs(self) -> Mapping[str, Array]:
        """Tensors of the next response: of the newest state, however many steps it covers."""
        ...


@runtime_checkable
class Selective(Protocol):
    """A call that computes what its client asked for alone."""

    def select(self, outputs: Sequence[str]) -> None:
        """Raises: InvalidRequest: an output that this model does not have."""
        ...


class Contract(Protocol):
    """Reads Triton requests of one set of tensors."""

    @property
    def input_types(self) -> Mapping[str, Any]:
        """Numpy types of the inputs that config.pbtxt declares."""
        ...

    def open(self, tensors: Mapping[str, Array], info: EngineInfo) -> Call:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        ...


def is_finished(call: Call) -> bool:
    return all(row.finish_reason is not None for row in call.rows)
