# SPDX-License-Identifier: BSD-3-Clause
"""What sessions keep between their requests: blocks of the cache, until somebody needs them more.

Only a cache: a request brings all tokens of its session along, so what was given back is computed again.
"""

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, replace
from itertools import takewhile

from .block_pool import BlockPool

SessionKey = tuple[int, int]
"""(client, the client's session id)"""


@dataclass(frozen=True, slots=True)
class Kept:
    """`blocks` hold keys and values of `tokens`."""

    tokens: Tokens[int]
    root: bytes
    """What these come from beside the tokens, as `Sequence.root`."""
    blocks: list[int]
    since: float


class Sessions:
    """Holds one reference on every block that it keeps; the session that rests longest comes first.

    Args:
        idle_seconds: how long a session may rest.
    """

    def __init__(self, pool: BlockPool, idle_seconds: float) -> None:
        self._pool = pool
        self._idle_seconds = idle_seconds
        self._now = 0.0
        self._kept: OrderedDict[SessionKey, Kept] = OrderedDict()

    @property
    def patience(self) -> float | None:
        """Seconds until the next `expire` has something to do; None when there is nothing."""
        oldest = next(iter(self._kept.values()), None)
        return None if oldest is None else max(0.0, oldest.since + self._idle_seconds - self._now)

    def keep(self, key: SessionKey, tokens: Tokens[int], blocks: list[int], root: bytes = b"") -> None:
        """Takes the references of a request that has ended over.

        Args:
            tokens: those that have keys and values. blocks: of all of them, and maybe more.
        """
        self.forget([key])
        needed = self._pool.blocks_for(len(tokens))
        self._pool.release(blocks[needed:])
        self._kept[key] = Kept(tokens, root, blocks[:needed], self._now)

    def find(self, key: SessionKey, tokens: Tokens[int], root: bytes = b"") -> tuple[list[int], int]:
        """Blocks with keys and values of the first `tokens`, and of how many; they stay kept."""
        kept = self._kept.get(key)
        if kept is None or kept.root != root:
            return [], 0
        count = _common(kept.tokens, tokens)
        full, rest = divmod(count, self._pool.block_size)
        if rest and self._pool.may_be_overwritten(kept.blocks[full]):
            return kept.blocks[: full + 1], count
        return kept.blocks[:full], full * self._pool.block_size

    def forget(self, keys: Iterable[SessionKey]) -> None:
        """Gives back what these sessions hold; what is not kept needs nothing."""
        for key in keys:
            kept = self._kept.pop(key, None)
            if kept is not None:
                self._pool.release(kept.blocks)

    def give_way(self, unless: SessionKey | None = None) -> bool:
        """Gives back what the session holds that rests longest; False when there is none but `unless`."""
        key = next((key for key in self._kept if key != unless), None)
        if key is not None:
            self.forget([key])
        return key is not None

    def shorten(self, key: SessionKey | None, used: list[int]) -> bool:
        """Gives back what the session holds and a request of it, which goes on from the blocks `used`, has no
        use for; False when that is nothing."""
        kept = None if key is None else self._kept.get(key)
        if key is None or kept is None:
            return False
        count = len(used) if kept.blocks[: len(used)] == used else 0
        if count == len(kept.blocks):
            return False
        self._pool.release(kept.blocks[count:])
        tokens = kept.tokens[: count * self._pool.block_size]
        self._kept[key] = replace(kept, tokens=tokens, blocks=kept.blocks[:count])
        return True

    def forget_client(self, client: int) -> None:
        self.forget([key for key in self._kept if key[0] == client])

    def expire(self, now: float) -> None:
        """Gives back what has rested for too long. Args: now: seconds on a clock that never goes back."""
        self._now = now
        rested = takewhile(lambda item: now - item[1].since >= self._idle_seconds, self._kept.items())
        self.forget([key for key, _ in rested])  # those that rest longest come first


def _common(one: Tokens[int], other: Tokens[int]) -> int:
    """How many tokens both begin with."""
    if other[: len(one)] == one:
        return len(one)
    return sum(1 for _ in takewhile(bool, map(int.__eq__, one, other)))
