# SPDX-License-Identifier: BSD-3-Clause
"""Decides on rank 0 which tokens every step computes. Integers only: no tensor, no device, no clock.

There is no prefill and no decode phase: a sequence has tokens to compute, and a step gives it some of
them. Decoding sequences come first, then the rest of running prompts, then new requests, until the
token budget is spent. When blocks run out, the youngest running sequence gives its own back and is
computed again later. Over 300 lines because whatever changes a sequence's state is here.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as List

from ..config import EngineConfig
from ..messages import AnyRequest, EngineInfo, EngineStats, FinishReason, Output, Request, token_ids
from .bans import REFUSAL, is_stuck
from .batch import Batch, FloatArray, StepResult, max_context_logits
from .beams import BeamGroup, Candidates, advance, copy_tail, start_search, tail_to_copy
from .block_pool import BlockPool
from .planner import Budget, Entry, Planner, entry_for
from .prefixes import Prefixes
from .prompts import PromptTables
from .sequence import Sequence, SequenceKey, State
from .sessions import Sessions

ClientOutput = tuple[int, Output]
"""(client, output)"""

_RUNNING, _FINISHED = State.RUNNING, State.FINISHED
"""For what happens for every token: Python 3.11 takes longer for a member of an enum than for a call."""


class Scheduler:
    """Requests in, batches out, results back in. Changed by one thread of rank 0 alone.

    Args:
        prompt_tables: embeddings of the checkpoint's prompt-learning tasks.
    """

    def __init__(
        self, config: EngineConfig, info: EngineInfo, num_blocks: int, prompt_tables: List[FloatArray] = ()
    ) -> None:
        # What a decoder computes depends on its encoder's input and its task: its tokens alone share nothing.
        enable_reuse = config.cache.enable_reuse and not info.max_encoder_len
        self.pool = BlockPool(num_blocks, config.cache.block_size, enable_reuse)
        self.sessions = Sessions(self.pool, config.cache.session_idle_s)
        self._prefixes = Prefixes(self.pool, self.sessions)
        self._config = config
        self._info = info
        self._prompts = PromptTables(info, prompt_tables)
        self._num_stages = config.parallel.pipeline_para_size
        self._planner = Planner(config.max_num_seqs, feed=self._num_stages > 1)
        self._max_context_logits = max_context_logits(info.vocab_size)
        self._sequences: dict[SequenceKey, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._free_slots = list(range(config.max_num_seqs))
        self._in_flight: deque[list[Entry]] = deque()
        self._outbox: list[ClientOutput] = []
        self._num_prefix_hit_tokens = 0
        self._num_preemptions = 0
        self._was_encoding = False
        """Whether the last step left the running sequences out for an encoder."""

    @property
    def idle(self) -> bool:
        """Nothing to compute and nothing to tell."""
        return not (self._waiting or self._running or self._in_flight or self._outbox)

    @property
    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_free_blocks=self.pool.num_free,
            num_total_blocks=self.pool.num_blocks,
            num_prefix_hit_tokens=self._num_prefix_hit_tokens,
            num_preemptions=self._num_preemptions,
        )

    def add(self, client: int, request: AnyRequest) -> None:
        """Queues a checked request, or answers at once that it cannot be queued."""
        assert isinstance(request, Request)
        if (client, request.id) in self._sequences:
            self.reject(client, request, f"request id {request.id} is already in use on this connection")
        elif len(self._waiting) >= self._config.max_queue_size:
            self.reject(client, request, f"the queue is full: {len(self._waiting)} requests wait; try again")
        else:
            end_ids = request.sampling.end_ids
            end_ids = self._info.end_ids if end_ids is None else end_ids
            sequence = Sequence(client, request, end_ids, request.prompt + token_ids(request.forced_tokens))
            sequence.wants_context = request.wants_context
            sequence.wants_context_logits = request.wants_context_logits
            self._prompts.give_meaning(sequence)
            if request.memory_len:
                memory_blocks = max(1, request.memory_len // self.pool.block_size)
                sequence.memory_blocks = min(memory_blocks, self.pool.num_blocks)  # no sequence has more
            sequence.keeps = request.session is not None and not request.session.is_last
            self._queue(sequence)

    def _queue(self, sequence: Sequence) -> None:
        """Unless what is forced upon its output is all of it."""
        if (output := sequence.forced_output()) is not None:
            self._tell(sequence.client, output)
            return
        if sequence.sampling.beam_width > 1:
            start_search(sequence, self._config.beam_search_rule, self._info.vocab_size)
        self._sequences[sequence.key] = sequence
        self._waiting.append(sequence)

    def reject(self, client: int, request: AnyRequest, error: str, may_retry: bool = True) -> None:
        """Answers a request that is no sequence, or none any more."""
        output = Output(request.id, finish_reason=FinishReason.ERROR, error=error, may_retry=may_retry)
        self._tell(client, output)

    def abort(self, client: int, request_ids: Iterable[int]) -> None:
        """Ends requests; unknown ids have ended already."""
        for request_id in request_ids:
            sequence = self._sequences.get((client, request_id))
            if sequence is not None:
                self._finish(sequence)
                self._tell(client, Output(request_id, finish_reason=FinishReason.ABORTED))

    def end_sessions(self, client: int, session_ids: Iterable[int]) -> None:
        """Keeps nothing for them any more; unknown ids have nothing."""
        keys = [(client, session_id) for session_id in session_ids]
        for sequence in self._sequences.values():
            sequence.keeps = sequence.keeps and sequence.session_key not in keys
        self.sessions.forget(keys)

    def drop_client(self, client: int) -> None:
        """Ends all requests and sessions of a client that is gone."""
        for sequence in [s for s in self._sequences.values() if s.client == client]:
            sequence.keeps = False
            self._finish(sequence)
        self.sessions.forget_client(client)

    @property
    def patience(self) -> float | None:
        """Seconds until the next `expire` has something to do; None when there is nothing."""
        return self.sessions.patience

    def expire(self, now: float) -> None:
        """Gives back what sessions have kept for too long."""
        self.sessions.expire(now)

    def schedule(self) -> Batch | None:
        """The next step, or None when nothing can be computed now."""
        room = self._sequences_per_batch()
        self._was_encoding = self._encoder_takes_the_step()
        planned = [] if self._was_encoding else self._continue_running(self._budget(), room)
        for entry in planned:
            self._prefixes.publish(entry.sequence, entry.num_tokens)
        if self._waiting:
            left = self._budget()
            for entry in planned:
                left.spend(entry)
            planned += self._admit(left, room - len(planned), is_empty=not planned)
        if not planned:
            self._fail_head_if_stuck()
            return None
        batch = self._planner.plan(planned)
        self._commit(planned)
        return batch

    def update(self, result: StepResult) -> None:
        """Takes in what the oldest batch in flight sampled."""
        samples = zip(result.tokens.tolist(), result.logprobs.tolist(), strict=True)
        candidates = zip(result.candidate_tokens, result.candidate_logprobs, strict=True)
        contexts = iter(() if result.contexts is None else result.contexts)
        context_logits, logits = iter(result.context_logits), iter(result.logits)
        complete: list[BeamGroup] = []
        for entry in self._in_flight.popleft():
            sequence = entry.sequence
            sequence.num_in_flight -= 1
            if entry.num_context:
                sequence.context = sequence.context + next(contexts)
            if entry.num_context_logits:
                sequence.context_logits.append(next(context_logits).tobytes())
            if entry.samples:
                sample = next(samples)
                raw = next(logits).tobytes() if sequence.request.wants_logits else b""
                group = sequence.group
                if group is None:
                    self._append(sequence, *sample, raw)
                elif self._collect(group, sequence, next(candidates)):
                    complete.append(group)
            self._settle(sequence)
        if complete:
            self._search(complete)

    def take_outputs(self) -> list[ClientOutput]:
        """What happened since the last call, in order."""
        outputs, self._outbox = self._outbox, []
        return outputs

    # Planning

    def _budget(self) -> Budget:
        return Budget(self._config.max_num_batched_tokens, self._max_context_logits)

    def _sequences_per_batch(self) -> int:
        """With S pipeline stages, S batches must be in flight that share no sequence."""
        live = min(len(self._running) + len(self._waiting), self._config.max_num_seqs)
        return -(-live // self._num_stages)

    def _continue_running(self, budget: Budget, room: int) -> list[Entry]:
        planned: list[Entry] = []
        # One stage reads a token in flight from its own pool; several must be told by the host.
        may_follow = self._num_stages == 1
        ready = [s for s in self._running if s.wants_tokens and (may_follow or s.num_in_flight == 0)]
        for sequence in sorted(ready, key=Sequence.is_behind):
            if budget.tokens == 0 or len(planned) == room:
                break
            count = budget.most(sequence)
            if count and sequence.state is _RUNNING and self._reserve(sequence, count):
                entry = entry_for(sequence, count)
                planned.append(entry)
                budget.spend(entry)
        return [entry for entry in planned if entry.sequence.state is _RUNNING]

    def _reserve(self, sequence: Sequence, count: int) -> bool:
        """Gives `sequence` the blocks for `count` more tokens, if need be at the cost of the youngest."""
        copies = 0 if sequence.group is None else tail_to_copy(self.pool, sequence)
        needed = self.pool.blocks_for(sequence.num_computed + count) - len(sequence.blocks)
        if needed + copies <= 0:
            return True
        while needed + copies > self.pool.num_free:
            if self.sessions.give_way():
                continue
            if any(s.state is State.PREEMPTED for s in self._sequences.values()):
                return False  # its blocks come back when the batches in flight are done
            self._preempt(self._running[-1])
            if sequence.state is not State.RUNNING:
                return False
        if copies:
            copy_tail(self.pool, sequence)
        if needed > 0:
            sequence.blocks += self.pool.allocate(needed)
        return True

    def _preempt(self, victim: Sequence) -> None:
        self._num_preemptions += 1
        self._leave(victim, State.PREEMPTED)
        self._settle(victim)

    def _encoder_takes_the_step(self) -> bool:
        """An encoder's input is computed whole. Where it does not fit beside the running sequences, they wait
        for one step; never for two in a row, nor where it would take the next block of one of them."""
        if not self._waiting or self._was_encoding:
            return False
        head, left = self._waiting[0], self._config.max_num_batched_tokens - len(self._running)
        needed = sum(self._blocks_needed(head)) + len(self._running)
        has_room = needed <= self.pool.num_free and len(head.members) <= len(self._free_slots)
        return 0 < head.encoder_len >= left and has_room

    def _admit(self, budget: Budget, room: int, is_empty: bool) -> list[Entry]:
        """`is_empty`: nothing else is in the step, so that the first one may exceed the budget."""
        admitted: list[Entry] = []
        while self._waiting and self._free_slots and budget.tokens > 0 and room > len(admitted):
            sequence = self._waiting[0]
            is_too_long = sequence.encoder_len >= budget.tokens and (admitted or not is_empty)
            must_wait = is_too_long or (sequence.wants_context_logits and budget.context_logits == 0)
            if must_wait or not self._take_blocks(sequence):
                break
            self._waiting.popleft()
            for member in sequence.members:
                member.slot = heapq.heappop(self._free_slots)
                member.state = State.RUNNING
                self._running.append(member)
            budget.tokens -= sequence.encoder_len
            count = max(budget.most(sequence), 1)
            admitted.append(entry_for(sequence, count))
            self._prefixes.publish(sequence, count)
            budget.spend(admitted[-1])
        return admitted

    def _blocks_needed(self, sequence: Sequence) -> tuple[int, int]:
        """For all known tokens and what the encoder leaves; and later, when beams fork."""
        now = self.pool.blocks_for(len(sequence.tokens)) + self.pool.blocks_for(sequence.encoder_len)
        return now, 0 if sequence.group is None else sequence.group.blocks_to_fork(self.pool)

    def _take_blocks(self, sequence: Sequence) -> bool:
        """Blocks for all known tokens, computed ones first; at least one token is left to compute."""
        if len(sequence.members) > len(self._free_slots):
            return False
        key = sequence.session_key
        computed, num_computed = self._prefixes.find(sequence)
        needed, later = self._blocks_needed(sequence)
        while needed + later - len(computed) > self.pool.num_free_without(computed):
            if not (self.sessions.shorten(key, computed) or self.sessions.give_way(unless=key)):
                return False
        self.pool.share(computed)
        if key is not None:
            self.sessions.forget([key])
        sequence.cross_blocks = self.pool.allocate(self.pool.blocks_for(sequence.encoder_len))
        sequence.blocks = computed + self.pool.allocate(needed - len(computed) - len(sequence.cross_blocks))
        sequence.num_published = num_computed // self.pool.block_size
        sequence.num_shared = num_computed
        sequence.num_computed = max(num_computed, sequence.prefix_len)
        self._num_prefix_hit_tokens += num_computed
        return True

    def _fail_head_if_stuck(self) -> None:
        """Forward progress: what cannot start on an empty engine never will."""
        if self._waiting and not self._running and not self._in_flight:
            head = self._waiting[0]
            self._refuse(head, self.pool.refusal(len(head.tokens)))

    def _refuse(self, sequence: Sequence, error: str) -> None:
        """Ends what would fail again."""
        self._finish(sequence)
        self.reject(sequence.client, sequence.request, error, may_retry=False)

    # Bookkeeping

    def _commit(self, entries: list[Entry]) -> None:
        self._in_flight.append(entries)
        for entry in entries:
            sequence = entry.sequence
            sequence.num_in_flight += 1
            sequence.num_computed += entry.num_tokens
            sequence.num_pending += entry.samples and sequence.group is None
            sequence.was_placed()
            if sequence.memory_blocks:
                self._prefixes.forget_oldest(sequence)

    def _append(self, sequence: Sequence, token: int, logprob: float, logits: bytes) -> None:
        sequence.num_pending -= 1
        if sequence.state is _FINISHED:
            return  # it ended while this step was in flight
        if is_stuck(sequence, token):
            self._refuse(sequence, REFUSAL.format(len(sequence.tokens) - sequence.prompt_len))
            return
        output = sequence.append(token, logprob, logits)
        self._tell(sequence.client, sequence.with_context(output))
        if output.finish_reason is None:
            self._prefixes.publish(sequence)
        else:
            self._finish(sequence)

    def _collect(self, group: BeamGroup, sequence: Sequence, candidates: Candidates) -> bool:
        """Takes in what one beam got; whether its search can go on."""
        return sequence.state is State.RUNNING and group.collect(sequence, candidates)

    def _search(self, groups: list[BeamGroup]) -> None:
        """Makes the searches go on that have got all that a step of theirs brings."""
        for group, outputs in zip(groups, advance(groups, self.pool), strict=True):
            for output in outputs:
                self._tell(group.head.client, group.head.with_context(output))
                if output.finish_reason is not None:
                    self._finish(group.head)

    def _finish(self, sequence: Sequence) -> None:
        if sequence.state is State.WAITING:
            self._waiting.remove(sequence)
        self._leave(sequence, State.FINISHED)
        del self._sequences[sequence.key]
        if sequence.session_key is not None and not sequence.keeps:
            self.sessions.forget([sequence.session_key])
        self._settle(sequence)

    def _leave(self, sequence: Sequence, state: State) -> None:
        for member in sequence.members:
            if member.state is State.RUNNING:
                self._running.remove(member)
            member.state = state

    def _settle(self, sequence: Sequence) -> None:
        """Takes back slots and blocks of a request that lost them, once no batch in flight names it."""
        if sequence.state is _RUNNING or sequence.slot < 0:
            return
        members = sequence.members
        if any(member.num_in_flight for member in members):
            return
        if sequence.keeps and sequence.session_key is not None and sequence.state is State.FINISHED:
            computed = sequence.tokens[: sequence.num_computed]
            self.sessions.keep(sequence.session_key, computed, sequence.blocks, sequence.root)
            sequence.blocks = []
        for member in members:
            self.pool.release(member.blocks)
            self.pool.release(member.cross_blocks)
            heapq.heappush(self._free_slots, member.slot)
            member.vacate()
        if sequence.state is State.PREEMPTED:
            if sequence.group is not None:
                sequence.group.rewind()
            self._leave(sequence, State.WAITING)
            self._waiting.appendleft(members[0])

    def _tell(self, client: int, output: Output) -> None:
        self._outbox.append((client, output))
