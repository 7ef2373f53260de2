# SPDX-License-Identifier: BSD-3-Clause
"""A request with several beams inside the scheduler: sequences that share blocks, fork and die together.

The prompt is computed once, by the first member. Every step gives each beam its most probable next tokens;
when all have come, the rule chooses the next beams. The first child of a beam stays where its parent was,
the others take the places of beams that died: blocks are shared, and the last one, where it is not full, is
copied by whoever writes to it first.
"""

from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass

from ..messages import FinishReason, Output, TokenIds, token_ids
from .batch import FloatArray, Int32Array
from .beam_rules import (
    Candidate,
    Choice,
    Path,
    Question,
    Rule,
    Step,
    best,
    choose_rule,
    forced_path,
    num_candidates,
)
from .block_pool import BlockPool
from .sequence import Sequence

Candidates = tuple[Int32Array, FloatArray]
"""Tokens [K] and log-probabilities [K], best first."""


@dataclass(slots=True)
class _Saved:
    """A beam of a group that was preempted."""

    tokens: TokenIds
    path: Path


class BeamGroup:
    """`beam_width` sequences, of which those that are no beam have no tokens and so nothing to compute.

    Args:
        head: the sequence that computes the prompt; it stands for the group where one waits.
        vocab_size: there are no more candidates.
    """

    def __init__(self, head: Sequence, rule: Rule, vocab_size: int) -> None:
        width = head.sampling.beam_width
        others = (
            Sequence(head.client, head.request, head.end_ids, token_ids(), group=self)
            for _ in range(width - 1)
        )
        head.group = self
        self.members = [head, *others]
        self.num_candidates = min(num_candidates(width, len(head.end_ids)), vocab_size)
        self._rule = rule
        self._live: list[tuple[Sequence, Path]] = []
        """Best first."""
        self._saved: list[_Saved] = []
        self._arrived: dict[int, Candidates] = {}

    @property
    def head(self) -> Sequence:
        return self.members[0]

    def blocks_to_fork(self, pool: BlockPool) -> int:
        """Blocks beside those of the head that the beams need to compute what they have."""
        known = len(self.head.tokens)
        last = self.head.prompt_len + self.head.sampling.max_tokens - 1  # what follows is never computed
        longest = len(self._saved[0].tokens) if self._saved else min(known + 1, last)
        count = len(self._saved) or len(self.members)
        shared = known // pool.block_size
        return count * (pool.blocks_for(longest) - shared) - (pool.blocks_for(known) - shared)

    def collect(self, member: Sequence, candidates: Candidates) -> bool:
        """Takes in what a member got; True when nothing is missing for the next step."""
        count = self.num_candidates
        self._arrived[id(member)] = candidates[0][:count], candidates[1][:count]
        return len(self._arrived) == max(1, len(self._live))

    def ask(self) -> Question | None:
        """Which of what was collected are the best; None where it does not matter."""
        if self._saved:
            return None
        beams = self._live or [(self.head, forced_path(self.head.request.forced_tokens))]
        tokens, logprobs = zip(*(self._arrived[id(member)] for member, _ in beams), strict=True)
        paths = [path for _, path in beams]
        norm = self._rule.norm(paths[0].length + 1)
        return Question(paths, tokens, logprobs, self._rule.preference, norm)

    def advance(
        self, pool: BlockPool, question: Question | None, candidates: List[Candidate]
    ) -> list[Output]:
        """The next beams, by the answer to `ask`; what there is to tell."""
        self._arrived = {}
        if question is None:  # what the head computed was only the tokens that its beams have in common
            self._restore(pool)
            return []
        parents = [member for member, _ in self._live] or [self.head]
        is_last = question.beams[0].length + 1 >= self.head.sampling.max_tokens
        choices = self._rule.advance(Step(question.beams, candidates, self._ends(parents), is_last))
        if not choices:
            return [self._result()]
        self._fork(pool, parents, choices)
        if not self.head.sampling.reports_beams:
            return []
        paths = [path for _, path in choices] + self._rule.ended
        return [self._output(paths)]

    def rewind(self) -> None:
        """After the blocks were taken away: the head has to compute again what the beams have in common."""
        self._arrived = {}
        if self._live:
            self._saved = [_Saved(member.tokens, path) for member, path in self._live]
            self._live = []
        for member in self.members[1:]:
            member.tokens = token_ids()
        if self._saved:
            self.head.tokens = _common([saved.tokens[:-1] for saved in self._saved])
        for member in self.members:
            member.digests = []

    def _ends(self, beams: list[Sequence]) -> Callable[[int, int], bool]:
        end_ids = self.head.end_ids
        if not self.head.sampling.stop_words:
            return lambda _, token: token in end_ids
        return lambda beam, token: beams[beam].would_stop(token)

    def _fork(self, pool: BlockPool, parents: list[Sequence], choices: list[Choice]) -> None:
        continued = {id(parents[parent]) for parent, _ in choices}
        free = [member for member in self.members if id(member) not in continued]
        live = []
        for parent, path in choices:
            member = parents[parent]
            if id(member) in continued:
                continued.remove(id(member))
            else:
                member = free.pop()
                _clone(pool, parents[parent], member)
            live.append((member, path))
        for member in free:
            pool.release(member.blocks)
            member.tokens, member.blocks, member.num_tabled = token_ids(), [], 0
            member.num_computed, member.num_published = 0, 0
        for member, path in live:
            member.tokens.append(path.token)
        self._live = live

    def _restore(self, pool: BlockPool) -> None:
        saved, self._saved = self._saved, []
        members = self.members[: len(saved)]
        for member, beam in zip(members, saved, strict=True):
            if member is not self.head:
                _clone(pool, self.head, member)
            member.tokens, member.is_placed = beam.tokens, False
        self._live = [(member, beam.path) for member, beam in zip(members, saved, strict=True)]

    def _result(self) -> Output:
        ended = self._rule.ended
        stopped = bool(ended) and ended[0].length < self.head.sampling.max_tokens
        return self._output(ended, FinishReason.STOP if stopped else FinishReason.LENGTH)

    def _output(self, paths: list[Path], reason: FinishReason | None = None) -> Output:
        beams = tuple(path.as_beam() for path in paths[: len(self.members)])
        return Output(self.head.request.id, beams=beams, finish_reason=reason)


def advance(groups: List[BeamGroup], pool: BlockPool) -> list[list[Output]]:
    """The next beams of groups that have collected everything; what each has to tell."""
    questions = [group.ask() for group in groups]
    answers = iter(best([question for question in questions if question is not None]))
    return [
        group.advance(pool, question, [] if question is None else next(answers))
        for group, question in zip(groups, questions, strict=True)
    ]


def start_search(head: Sequence, rule: str, vocab_size: int) -> None:
    """Makes the sequence of a request the head of a group."""
    chosen = choose_rule(rule, head.sampling, head.end_ids, head.prompt_len, head.encoder_len > 0)
    BeamGroup(head, chosen, vocab_size)


def _common(lists: list[TokenIds]) -> TokenIds:
    """What lists of one length begin with."""
    first, *others = lists
    differs = (place for place, token in enumerate(first) if any(other[place] != token for other in others))
    return first[: next(differs, len(first))]


def _clone(pool: BlockPool, parent: Sequence, child: Sequence) -> None:
    """Gives `child` what `parent` has computed, instead of what it had itself."""
    pool.share(parent.blocks)
    pool.release(child.blocks)
    if child.cross_blocks is not parent.cross_blocks:
        pool.share(parent.cross_blocks)
        pool.release(child.cross_blocks)
        child.cross_blocks, child.is_encoded = parent.cross_blocks, True
    child.tokens, child.blocks, child.num_tabled = parent.tokens[:], list(parent.blocks), 0
    child.digests, child.num_published = list(parent.digests), parent.num_published
    child.num_computed, child.salt, child.embeddings = parent.num_computed, parent.salt, parent.embeddings
    child.copies_slot = parent.slot if child.is_placed else -1


def tail_to_copy(pool: BlockPool, sequence: Sequence) -> int:
    """1 where the next token of a beam goes into a block that another one still reads, else 0."""
    index, offset = divmod(sequence.num_computed, pool.block_size)
    return int(offset > 0 and pool.is_shared(sequence.blocks[index]))


def copy_tail(pool: BlockPool, sequence: Sequence) -> None:
    """Replaces that block by one of its own, which the next step fills before it writes."""
    index = sequence.num_computed // pool.block_size
    (block,) = pool.allocate(1)
    sequence.copies_block = sequence.blocks[index], block
    pool.release([sequence.blocks[index]])
    sequence.blocks[index], sequence.num_tabled = block, min(index, sequence.num_tabled)
