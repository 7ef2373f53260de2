# SPDX-License-Identifier: BSD-3-Clause
"""Where checkpoints that store q, k and v as one tensor put each head, counted in heads."""

from collections.abc import Callable

from ..spec import ModelSpec

Layout = Callable[[ModelSpec, str, int], int]
"""(spec, role `q`, `k` or `v`, head) -> the head's place among all N + 2 K of the fused tensor"""


def stacked(spec: ModelSpec, role: str, head: int) -> int:
    """All query heads, then all key heads, then all value heads."""
    queries, keys = spec.num_attention_heads, spec.num_key_value_heads
    return {"q": 0, "k": queries, "v": queries + keys}[role] + head


def grouped(spec: ModelSpec, role: str, head: int) -> int:
    """The query heads of a key-value head, its key, its value; then those of the next one."""
    group = spec.num_attention_heads // spec.num_key_value_heads
    if role == "q":
        return head // group * (group + 2) + head % group
    return head * (group + 2) + group + (role == "v")


_CODEGEN_PARTS = 4


def in_parts(spec: ModelSpec, role: str, head: int) -> int:
    """Four parts of the heads one after another, each with its queries, values and keys. (CodeGen)"""
    heads = spec.num_attention_heads // _CODEGEN_PARTS
    part, place = divmod(head, heads)
    return (part * 3 + ("q", "v", "k").index(role)) * heads + place
