# SPDX-License-Identifier: BSD-3-Clause
"""A runner without a model: the next token is a function of all tokens before it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace

from fastertransformer.config import CacheConfig, EngineConfig, ParallelConfig
from fastertransformer.engine.batch import Batch, BeamStep, StepResult
from fastertransformer.engine.scheduler import Scheduler
from fastertransformer.messages import (
    Beam,
    EngineInfo,
    FinishReason,
    Output,
    Request,
    SamplingParams,
    token_ids,
)

VOCAB_SIZE = 97
BLOCK_SIZE = 4
INFO = EngineInfo(
    model_type="toy", vocab_size=VOCAB_SIZE, max_model_len=64, start_id=1, end_ids=(0,), plan=""
)


ENCODING = replace(INFO, max_encoder_len=48, encoder_vocab_size=VOCAB_SIZE)
"""Of an encoder-decoder."""


def next_token(tokens: list[int], encoder_tokens: Sequence[int] = ()) -> int:
    """Depends on every token and on the length, so a wrong or missing one shows."""
    value = 7
    for token in (*encoder_tokens, *tokens):
        value = (value * 31 + token + 1) % 1_000_003
    return value % VOCAB_SIZE


def next_logprobs(tokens: list[int]) -> np.ndarray:
    """[V] float32 of the same kind, for beams; an end is likely."""
    logits = np.random.default_rng([1, *tokens]).normal(size=VOCAB_SIZE)
    logits[list(INFO.end_ids)] += 1.5
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


def top(logprobs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` most probable tokens and their log-probabilities."""
    tokens = np.argsort(-logprobs, kind="stable")[:count]
    return tokens.astype(np.int32), logprobs[tokens]


def remembered(tokens: list[int], memory_blocks: int, block_size: int) -> list[int]:
    """What the last of `tokens` sees."""
    if not memory_blocks:
        return tokens
    return tokens[max(0, (len(tokens) - 1) // block_size - memory_blocks + 1) * block_size :]


def expected(request: Request) -> list[int]:
    """What a request generates when it is alone."""
    tokens = list(request.prompt)
    memory_blocks = max(1, request.memory_len // BLOCK_SIZE) if request.memory_len else 0
    for number in range(request.sampling.max_tokens):
        forced = request.forced_tokens[number : number + 1]
        seen = remembered(tokens, memory_blocks, BLOCK_SIZE)
        tokens += forced or (next_token(seen, request.encoder_tokens),)
        if tokens[-1] in INFO.end_ids:
            break
    return tokens[len(request.prompt) :]


class ToyRunner:
    """Keeps a token pool and a cache of block contents, and fails on any token that is not there."""

    def __init__(self, config: EngineConfig, num_blocks: int) -> None:
        self.pool = np.full((config.max_num_seqs, 2 * INFO.max_model_len), -1, np.int64)
        self.cache = np.full((num_blocks, config.cache.block_size), -1, np.int64)
        self.block_size = config.cache.block_size
        self._has_one_stage = config.parallel.pipeline_para_size == 1
        self._last: Batch | None = None

    def _check_what_goes_on(self, batch: Batch) -> None:
        """A step of the last one's slots is that step again, one token further."""
        last, self._last = self._last, batch
        if last is None or batch.slots is not last.slots:
            return
        assert (batch.num_computed == last.num_computed + 1).all()
        assert len(batch.sample_rows) == len(batch.slots) == batch.num_tokens
        changed = {"num_computed": last.num_computed, "block_tables": last.block_tables}
        told = {"admissions": (), "prefixes": ()}
        again, last = dataclasses.replace(batch, **changed), dataclasses.replace(last, **told)
        for name in (each.name for each in dataclasses.fields(Batch)):
            np.testing.assert_equal(getattr(again, name), getattr(last, name), name)

    def _copy(self, beams: BeamStep) -> None:
        for array, (sources, targets) in ((self.pool, beams.slot_copies), (self.cache, beams.block_copies)):
            assert not set(sources.tolist()) & set(targets.tolist()), "a copy reads what another one writes"
            assert len(set(targets.tolist())) == len(targets), "two copies write the same"
            array[targets] = array[sources]

    def execute(self, batch: Batch) -> StepResult:
        """Computes every row through the cache, like a model would."""
        self._check_what_goes_on(batch)
        if batch.beams is not None:
            self._copy(batch.beams)
        for admission in batch.admissions:
            self.pool[admission.slot] = -1
            self.pool[admission.slot, : len(admission.tokens)] = admission.tokens
        if batch.feed is not None:
            self.pool[batch.feed.slots, batch.feed.positions] = batch.feed.tokens
        self._encode(batch)
        tokens, candidates, computed = [], [], []
        for row in range(len(batch.slots)):
            start, count = int(batch.num_computed[row]), int(batch.query_lens[row])
            for position in range(start, start + count):
                block = batch.block_tables[row][position // self.block_size]
                self.cache[block, position % self.block_size] = self.pool[batch.slots[row], position]
            computed += self.pool[batch.slots[row], start : start + count].tolist()
            if row in batch.sample_rows:
                seen = self._seen(batch, row, start + count)
                if batch.beams is not None and len(tokens) in batch.beams.rows:
                    candidates.append(
                        top(next_logprobs([*self._encoded(batch, row), *seen]), batch.beams.num_candidates)
                    )
                    tokens.append(-1)
                else:
                    tokens.append(self._sample(batch, row, seen))
        samples = np.array(tokens, np.int32), np.zeros(len(tokens), np.float32)
        result = StepResult(*samples, *map(np.stack, zip(*candidates, strict=True)))
        return dataclasses.replace(
            result,
            context_logits=tuple(_as_logits(computed[begin:end]) for begin, end in batch.context_logits),
            logits=_as_logits(result.tokens[batch.logit_rows]),
        )

    def _encode(self, batch: Batch) -> None:
        for admission in batch.admissions:
            for position, token in enumerate(admission.encoder_tokens):
                block = admission.cross_blocks[position // self.block_size]
                self.cache[block, position % self.block_size] = token

    def _encoded(self, batch: Batch, row: int) -> list[int]:
        if batch.cross is None:
            return []
        return self._read(batch.cross.block_tables[row], int(batch.cross.seq_lens[row]))

    def _seen(self, batch: Batch, row: int, length: int) -> list[int]:
        memory_blocks = 0 if batch.memory_blocks is None else int(batch.memory_blocks[row])
        cached = self._read(batch.block_tables[row], length)
        seen = remembered(cached, memory_blocks, self.block_size)
        assert -1 not in seen, "a token was read before it was computed"
        return seen

    def _read(self, table: np.ndarray, length: int) -> list[int]:
        blocks = table[: -(-length // self.block_size)]
        return self.cache[blocks].reshape(-1)[:length].tolist()

    def _sample(self, batch: Batch, row: int, seen: list[int]) -> int:
        token = next_token(seen, self._encoded(batch, row))
        if self._has_one_stage:  # else the first one, whose pool this is, must be told
            self.pool[batch.slots[row], batch.num_computed[row] + batch.query_lens[row]] = token
        return token


def _as_logits(tokens: Sequence[int]) -> np.ndarray:
    """[n, 1] the tokens themselves."""
    return np.array(tokens, np.float32).reshape(-1, 1)


def engine_config(**changes: int) -> EngineConfig:
    """A small engine: 4 sequences, 8 tokens a step, blocks of 4."""
    stages = changes.pop("stages", 1)
    reuse = bool(changes.pop("reuse", 1))
    return EngineConfig(
        model_checkpoint_path="toy",
        parallel=ParallelConfig(pipeline_para_size=stages),
        cache=CacheConfig(block_size=BLOCK_SIZE, enable_reuse=reuse),
        max_num_seqs=changes.pop("max_num_seqs", 4),
        max_num_batched_tokens=changes.pop("max_num_batched_tokens", 8),
        **changes,
    )


@dataclass
class Result:
    """What a client saw of one request."""

    tokens: list[int]
    beams: tuple[Beam, ...] = ()
    finish_reason: FinishReason | None = None
    error: str = ""
    context_logits: list[float] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)


class ToyEngine:
    """Engine.serve's order of events, with a step counter instead of clients."""

    def __init__(self, config: EngineConfig, num_blocks: int, depth: int, info: EngineInfo = INFO) -> None:
        self.scheduler = Scheduler(config, info, num_blocks)
        self.runner = ToyRunner(config, num_blocks)
        self.depth = depth
        self.in_flight: list[StepResult] = []
        self.results: dict[tuple[int, int], Result] = {}

    def add(self, request: Request, client: int = 0) -> None:
        self.results[client, request.id] = Result([])
        self.scheduler.add(client, request)

    def step(self) -> Batch | None:
        """One turn of the loop."""
        batch = self.scheduler.schedule()
        if batch is not None:
            self.in_flight.append(self.runner.execute(batch))
        if self.in_flight and (batch is None or len(self.in_flight) > self.depth):
            self.scheduler.update(self.in_flight.pop(0))
        for client, output in self.scheduler.take_outputs():
            self._note(client, output)
        return batch

    def run(self, max_steps: int = 5000) -> None:
        """Until idle; a scheduler that starves somebody runs into `max_steps`."""
        for _ in range(max_steps):
            if self.scheduler.idle:
                return
            self.step()
        raise AssertionError(f"not idle after {max_steps} steps: {self.scheduler.stats}")

    def _note(self, client: int, output: Output) -> None:
        result = self.results[client, output.id]
        assert result.finish_reason is None, "an output after the last one"
        assert not output.context_logits or not result.tokens, "logits of the prompt behind the first token"
        result.tokens += output.tokens
        result.context_logits += np.frombuffer(output.context_logits, np.float32).tolist()
        result.logits += np.frombuffer(output.logits, np.float32).tolist()
        result.beams = output.beams
        result.finish_reason = output.finish_reason
        result.error = output.error


def request(request_id: int, prompt: list[int], max_tokens: int, **sampling: object) -> Request:
    return Request(request_id, token_ids(prompt), SamplingParams(max_tokens=max_tokens, **sampling))
