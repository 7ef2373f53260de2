# SPDX-License-Identifier: BSD-3-Clause
"""Reference-counted KV blocks with prefix reuse: who holds which block, and what a free one still contains.

A full block is published under a digest of all tokens up to its end; a later request with the same
prefix takes it over, whether it is still in use or free but not yet overwritten. Free blocks are
handed out least recently used first, those that hold nothing reusable before all others.
"""

from collections import OrderedDict
from collections.abc import Sequence as Tokens
from hashlib import blake2b
from itertools import pairwise

from .batch import int32_ids

GONE = -1
"""In a list of blocks: one that was given back, because nothing looks so far back any more."""


def prefix_digests(tokens: Tokens[int], block_size: int, parent: bytes = b"") -> list[bytes]:
    """Digest of every full block of `tokens`; `parent` is the digest of what comes before them."""
    digests, ids = [], int32_ids(tokens)
    data = ids.tobytes()
    for start, end in pairwise(range(0, len(data) + 1, block_size * ids.itemsize)):
        parent = blake2b(parent + data[start:end], digest_size=16).digest()
        digests.append(parent)
    return digests


class BlockPool:
    """Bookkeeping for `num_blocks` blocks; block contents live with the runner."""

    def __init__(self, num_blocks: int, block_size: int, enable_reuse: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.enable_reuse = enable_reuse
        self._references = [0] * num_blocks
        self._blank = list(reversed(range(num_blocks)))
        """Free blocks that hold nothing reusable; the last one is taken next."""
        self._reusable: OrderedDict[int, None] = OrderedDict()
        """Free blocks that are published; the first one is taken next, when no blank one is left."""
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._blank) + len(self._reusable)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def refusal(self, num_tokens: int) -> str:
        """Why so many tokens can never be held."""
        needed = self.blocks_for(num_tokens)
        return f"{num_tokens} tokens need {needed} KV cache blocks, the whole cache has {self.num_blocks}"

    def match(self, digests: Tokens[bytes]) -> list[int]:
        """The longest run of published blocks for these digests; nothing is taken yet."""
        blocks = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_free_without(self, blocks: Tokens[int]) -> int:
        """Free blocks that would be left after `blocks` are shared."""
        return self.num_free - sum(self._references[block] == 0 for block in _there(blocks))

    def share(self, blocks: Tokens[int]) -> None:
        """Takes one more reference on each of `blocks`."""
        for block in _there(blocks):
            if self._references[block] == 0:
                del self._reusable[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Takes `count` free blocks and forgets what they contained."""
        assert count <= self.num_free, f"{count} blocks wanted, {self.num_free} free"
        kept = max(0, len(self._blank) - count)
        blocks = self._blank[kept:][::-1]
        del self._blank[kept:]
        while len(blocks) < count:
            block, _ = self._reusable.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
            blocks.append(block)
        for block in blocks:
            self._references[block] = 1
        return blocks

    def is_shared(self, block: int) -> bool:
        """Whether somebody else would see what one writes to a block that one holds."""
        return self._references[block] > 1

    def may_be_overwritten(self, block: int) -> bool:
        """Whether its one holder alone knows what it contains."""
        return self._references[block] == 1 and block not in self._digest_of

    def publish(self, block: int, digest: bytes) -> None:
        """Offers a block whose contents are final; the first one with a digest stays the shared one."""
        if self.enable_reuse and digest not in self._block_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def release(self, blocks: Tokens[int]) -> None:
        """Gives back one reference on each block, last block first: the start of a prefix is kept longest."""
        references, digest_of = self._references, self._digest_of
        for block in reversed(_there(blocks)):
            assert references[block] > 0, f"block {block} released more often than taken"
            references[block] -= 1
            if references[block]:
                continue
            if block in digest_of:
                self._reusable[block] = None
            else:
                self._blank.append(block)

    def check_integrity(self) -> None:
        """Asserts what must hold when nothing runs: every block is free exactly once."""
        assert self.num_free == self.num_blocks, f"{self.num_blocks - self.num_free} blocks leaked"
        assert not any(self._references), "a free block is still referenced"


def _there(blocks: Tokens[int]) -> list[int]:
    return [block for block in blocks if block != GONE] if GONE in blocks else list(blocks)
