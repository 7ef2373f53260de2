# SPDX-License-Identifier: BSD-3-Clause
"""Which of a sequence's first tokens need not be computed, and offering what it has computed to others."""

from .block_pool import GONE, BlockPool, prefix_digests
from .sequence import Sequence
from .sessions import Sessions


class Prefixes:
    """Looks in what sessions keep and in the blocks that the pool has published."""

    def __init__(self, pool: BlockPool, sessions: Sessions) -> None:
        self._pool = pool
        self._sessions = sessions

    def find(self, sequence: Sequence) -> tuple[list[int], int]:
        """Blocks that hold its first tokens, and how many; one is left to compute, and the whole prompt where
        its hidden states or logits are wanted. They are not taken."""
        if sequence.computes_prompt:
            return [], 0
        known = len(sequence.tokens) - 1
        shared = self._pool.match(self._digests(sequence, known // self._pool.block_size))
        num_shared = len(shared) * self._pool.block_size
        if sequence.session_key is not None:
            kept, num_kept = self._sessions.find(sequence.session_key, sequence.tokens[:known], sequence.root)
            oldest = sequence.oldest_block(num_kept, self._pool.block_size)
            if num_kept > num_shared and GONE not in kept[oldest:]:
                return kept, num_kept
        return shared, num_shared

    def publish(self, sequence: Sequence, num_planned: int = 0) -> None:
        """A block may be shared as soon as its last token is among the `num_planned` of the next batch, even
        by other sequences of that batch: every layer writes all keys and values before it reads any."""
        if not self._pool.enable_reuse:
            return
        full = min(sequence.num_computed + num_planned, len(sequence.tokens)) // self._pool.block_size
        if full <= sequence.num_published:
            return
        digests = self._digests(sequence, full)
        for index in range(sequence.num_published, full):
            self._pool.publish(sequence.blocks[index], digests[index])
        sequence.num_published = full

    def forget_oldest(self, sequence: Sequence) -> None:
        """Gives back what no token of a sequence that forgets sees any more: batches run in order, so those
        in flight read it first."""
        next_token = min(sequence.num_computed, len(sequence.tokens))
        oldest = sequence.oldest_block(next_token, self._pool.block_size)
        self._pool.release(sequence.blocks[:oldest])
        sequence.blocks[:oldest] = [GONE] * oldest

    def _digests(self, sequence: Sequence, count: int) -> list[bytes]:
        """Digests of the first `count` blocks; none when nothing is shared."""
        if not self._pool.enable_reuse:
            return []
        known = sequence.digests
        if len(known) < count:
            tokens = sequence.tokens[len(known) * self._pool.block_size : count * self._pool.block_size]
            parent = known[-1] if known else sequence.root
            known += prefix_digests(tokens, self._pool.block_size, parent)
        return known[:count]
