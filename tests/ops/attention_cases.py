# SPDX-License-Identifier: BSD-3-Clause
"""Batches for paged_attention: scattered pages, NaN where no key lies, nonsense where no table ends."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastertransformer import ops

NO_PAGE = 1 << 30
"""Stands in block tables where nothing may look."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One call of the op. Sequence i has query_lens[i] queries at the end of its seq_lens[i] keys."""

    query_lens: list[int]
    seq_lens: list[int]
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    block_size: int = 16
    dtype: torch.dtype = torch.float16
    window: int = 0
    soft_cap: float = 0.0
    has_alibi: bool = False
    relative_reach: int = 0
    """The distance from which on the relative bias stays the same; 0: there is none."""
    seeds: list[int] = field(default_factory=list)
    """One for each sequence's contents; by default all differ."""

    def arguments(self) -> list[Any]:
        """The arguments of the op, tensors on the CPU."""
        pages = [-(-length // self.block_size) for length in self.seq_lens]
        tables = torch.full((len(pages), max(pages) + 2), NO_PAGE, dtype=torch.int32)
        order = torch.randperm(sum(pages) + 3, generator=_generator(1)).int()
        cache = self._empty_cache(sum(pages) + 3)
        queries = []
        for row, owned in enumerate(torch.split(order[: sum(pages)], pages)):
            tables[row, : len(owned)] = owned
            queries.append(self._fill(row, cache, owned.long()))
        lengths = np.array(self.query_lens, np.int32), np.array(self.seq_lens, np.int32)
        work = ops.attention_work(*lengths, self.num_kv_heads)
        size = ops.attention_workspace_size(int(work[0, -1]), self.num_heads, self.head_dim)
        return [
            torch.cat(queries)[:, : self.num_heads],
            cache[:, 0],
            cache[:, 1],
            tables,
            torch.from_numpy(lengths[1]),
            torch.tensor([0, *np.cumsum(self.query_lens)], dtype=torch.int32),
            torch.from_numpy(work),
            torch.zeros(size),
            max(self.query_lens),
            max(self.seq_lens),
            self.head_dim**-0.5,
            self.window,
            self.soft_cap,
            2.0 ** -torch.arange(1.0, self.num_heads + 1) if self.has_alibi else None,
            self._relative_bias() if self.relative_reach else None,
        ]

    def _relative_bias(self) -> Tensor:
        return 2 * torch.randn(self.num_heads, self.relative_reach + 1, generator=_generator(0))

    def _empty_cache(self, num_blocks: int) -> Tensor:
        """[blocks, 2, K, block_size, D]: the op's caches are strided views of it."""
        shape = (num_blocks, 2, self.num_kv_heads, self.block_size, self.head_dim)
        return torch.full(shape, torch.nan, dtype=self.dtype)

    def _fill(self, row: int, cache: Tensor, pages: Tensor) -> Tensor:
        """Writes a sequence's keys and values; returns its fused q, k and v [q_len, N + 2 K, D]."""
        length, count = self.seq_lens[row], self.query_lens[row]
        generator = _generator(self.seeds[row] if self.seeds else 2 + row)
        fused_heads = self.num_heads + 2 * self.num_kv_heads
        fused = torch.randn(length, fused_heads, self.head_dim, generator=generator).to(self.dtype)
        keys, values = fused[:, self.num_heads :].split(self.num_kv_heads, 1)
        at = torch.arange(length)
        for index, rows in enumerate((keys, values)):
            cache[pages[at // self.block_size], index, :, at % self.block_size] = rows
        return fused[length - count :]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
