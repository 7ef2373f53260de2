# SPDX-License-Identifier: BSD-3-Clause
"""The client of a session, for tests."""

from toy_engine import ToyEngine, expected

from fastertransformer.messages import Request, SamplingParams, Session, token_ids


class Conversation:
    """Sends turns one after the other and remembers what was said."""

    def __init__(self, engine: ToyEngine, session_id: int, client: int = 0, memory_len: int = 0) -> None:
        self.engine = engine
        self.memory_len = memory_len
        self.session_id = session_id
        self.client = client
        self.tokens: list[int] = []
        self.request: Request | None = None

    def say(self, number: int, new: list[int], max_tokens: int, is_last: bool = False) -> Request:
        session = Session(self.session_id, is_last)
        sampling = SamplingParams(max_tokens=max_tokens)
        self.request = Request(number, token_ids((*self.tokens, *new)), sampling, session, self.memory_len)
        self.engine.add(self.request, self.client)
        return self.request

    def hear(self) -> None:
        """Checks the answer and takes it in."""
        assert self.request is not None
        result = self.engine.results[self.client, self.request.id]
        assert result.error == ""
        assert result.tokens == expected(self.request)
        self.tokens = [*self.request.prompt, *result.tokens]


def kept(engine: ToyEngine) -> int:
    """Blocks that are not free while nothing runs."""
    return engine.scheduler.pool.num_blocks - engine.scheduler.pool.num_free
