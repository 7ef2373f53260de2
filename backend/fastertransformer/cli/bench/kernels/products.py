# SPDX-License-Identifier: BSD-3-Clause
"""Cases: matrix products with few rows, and our own of prompts, in the sizes of a model's layers."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from .... import ops
from ....models.block import TOPOLOGIES
from ....models.spec import ModelSpec
from ....ops.registry import OPS
from ..timing import Call
from .case import Arguments, Case, Inputs

_LOGIT_BYTES = 4
_SCALE_BYTES = 4


def matrices(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """[N, K] of every product of a layer, as one rank multiplies them."""
    heads = spec.num_attention_heads * spec.head_dim
    keys = 2 * spec.num_key_value_heads * spec.head_dim
    ups = (2 if spec.gated_mlp else 1) * spec.intermediate_size
    return {
        "qkv": (heads + keys, spec.hidden_size),
        "output": (spec.hidden_size, heads),
        "up": (ups, spec.hidden_size),
        "down": (spec.hidden_size, spec.intermediate_size),
    }


def product_cases(spec: ModelSpec, itemsize: int, rows: Iterable[int]) -> Iterator[Case]:
    """Every product of the model with every number of rows, and what longer ones make of int8 weights."""
    for role, (n, k) in matrices(spec).items():
        yield _expand_int8(role, n, k, itemsize)
    for m in rows:
        for role, (n, k) in matrices(spec).items():
            yield _linear(role, m, n, k, itemsize)
            yield _linear_int8(role, m, n, k, itemsize)
        yield from _activated(m, *matrices(spec)["up"], spec.activation, spec.gated_mlp, itemsize)
        if TOPOLOGIES[spec.residual].is_parallel:
            yield _sum(m, *matrices(spec)["output"], matrices(spec)["down"][1], itemsize)
        yield _logits(m, spec.vocab_size, spec.hidden_size, itemsize)
        yield _logits_int8(m, spec.vocab_size, spec.hidden_size, itemsize)


def prompt_cases(spec: ModelSpec, itemsize: int, prefill: Iterable[tuple[int, int]]) -> Iterator[Case]:
    """The products of prompts that are not torch's own, with the tokens of all prompts as rows."""
    for m in (count * length for count, length in prefill):
        up = matrices(spec)["up"]
        yield _many_activated(m, *up, spec.activation, spec.gated_mlp, itemsize)
        for role, (n, k) in matrices(spec).items():
            yield _tile(role, m, n, k, None, itemsize)
        if not spec.gated_mlp:
            yield _tile("up", m, *up, spec.activation, itemsize)


def _tile(role: str, m: int, n: int, k: int, kind: str | None, itemsize: int) -> Case:
    op = "tile_linear" if kind is None else "tile_activated_linear"
    how = () if kind is None else (kind,)

    def make(inputs: Inputs) -> Arguments:
        return inputs.normal(m, k), inputs.normal(n, k), inputs.normal(n), *how

    def make_peer(inputs: Inputs) -> Call:
        x, weight, bias, *_ = make(inputs)
        if kind is None:
            return partial(linear, x, weight, bias)
        return partial(ops.library_activated_linear, x, weight, bias, kind)

    return Case(
        op=op,
        sizes=f"{role} {n}x{k}{f' {kind}' if kind else ''} M={m}",
        make=make,
        num_bytes=(n * k + m * k + m * n) * itemsize,
        flops=2 * m * n * k,
        make_peer=make_peer,
        is_taken=lambda arguments: m <= ops.tile_rows(arguments[1]),
    )


def _many_activated(m: int, n: int, k: int, kind: str, is_gated: bool, itemsize: int) -> Case:
    role, op, columns, rows, library = (
        ("gate_up", "gated_linear", n // 2, ops.gated_rows, _gated_by_library)
        if is_gated
        else ("up", "activated_linear", n, ops.activated_rows, ops.library_activated_linear)
    )

    def make(inputs: Inputs) -> Arguments:
        bias = () if is_gated else (inputs.normal(n),)
        return inputs.normal(m, k), inputs.normal(n, k), *bias, kind

    def make_peer(inputs: Inputs) -> Call:
        return partial(library, *make(inputs))

    return Case(
        op=op,
        sizes=f"{role} {n}x{k} {kind} M={m}",
        make=make,
        num_bytes=(n * k + m * k + m * columns) * itemsize,
        flops=2 * m * n * k,
        make_peer=make_peer,
        is_taken=lambda arguments: rows(arguments[1]) is not None,
    )


def _gated_by_library(x: Tensor, weight: Tensor, kind: str) -> Tensor:
    return ops.gated_activation(ops.library_linear(x, weight, None), kind)


def _linear(role: str, m: int, n: int, k: int, itemsize: int) -> Case:
    def make(inputs: Inputs) -> Arguments:
        return inputs.normal(m, k), inputs.normal(n, k), None

    return Case(
        op="skinny_linear",
        sizes=f"{role} {n}x{k} M={m}",
        make=make,
        num_bytes=(n * k + m * k + m * n) * itemsize,
        flops=2 * m * n * k,
    )


def _linear_int8(role: str, m: int, n: int, k: int, itemsize: int) -> Case:
    def make(inputs: Inputs) -> Arguments:
        return inputs.normal(m, k), *_int8(inputs, n, k), None

    return _int8_case(
        op="skinny_linear_int8",
        sizes=f"{role} {n}x{k} M={m}",
        make=make,
        num_bytes=n * (k + _SCALE_BYTES) + (m * k + m * n) * itemsize,
        flops=2 * m * n * k,
    )


def _expand_int8(role: str, n: int, k: int, itemsize: int) -> Case:
    def make(inputs: Inputs) -> Arguments:
        return inputs.normal(n, k), *_int8(inputs, n, k)

    return _int8_case(
        op="expand_int8",
        sizes=f"{role} {n}x{k}",
        make=make,
        num_bytes=n * (k * (1 + itemsize) + _SCALE_BYTES),
        flops=n * k,
    )


def _activated(m: int, n: int, k: int, kind: str, is_gated: bool, itemsize: int) -> Iterator[Case]:
    role, op, peer = (
        ("gate_up", "skinny_gated_linear", OPS["gated_activation"])
        if is_gated
        else ("up", "skinny_activated_linear", OPS["activation"])
    )

    how = (kind,) if is_gated else (kind, 0)

    def make(inputs: Inputs) -> Arguments:
        return inputs.normal(m, k), inputs.normal(n, k), None, *how

    def make_int8(inputs: Inputs) -> Arguments:
        return inputs.normal(m, k), *_int8(inputs, n, k), None, *how

    def make_peer(inputs: Inputs) -> Call:
        x, weight, bias, *_ = make(inputs)
        return lambda: peer.body(linear(x, weight, bias), kind)

    tokens = (m * k + m * n // (2 if is_gated else 1)) * itemsize
    size: dict[str, Any] = {"sizes": f"{role} {n}x{k} {kind} M={m}", "flops": 2 * m * n * k}
    yield Case(op=op, make=make, num_bytes=n * k * itemsize + tokens, make_peer=make_peer, **size)
    yield _int8_case(op=f"{op}_int8", make=make_int8, num_bytes=n * (k + _SCALE_BYTES) + tokens, **size)


def _sum(m: int, n: int, k: int, second_k: int, itemsize: int) -> Case:
    def make(inputs: Inputs) -> Arguments:
        first = inputs.normal(m, k), inputs.normal(n, k)
        return *first, inputs.normal(m, second_k), inputs.normal(n, second_k), None

    def make_peer(inputs: Inputs) -> Call:
        x, weight, second_x, second_weight, _ = make(inputs)
        return lambda: linear(x, weight).addmm_(second_x, second_weight.T)

    columns = k + second_k
    return Case(
        op="skinny_linear_sum",
        sizes=f"output + down {n}x({k} + {second_k}) M={m}",
        make=make,
        num_bytes=(n * columns + m * columns + m * n) * itemsize,
        flops=2 * m * n * columns,
        make_peer=make_peer,
    )


def _logits(m: int, n: int, k: int, itemsize: int) -> Case:
    def make(inputs: Inputs) -> Arguments:
        return inputs.normal(m, k), inputs.normal(n, k)

    return Case(
        op="skinny_logits",
        sizes=f"head {n}x{k} M={m}",
        make=make,
        num_bytes=(n * k + m * k) * itemsize + m * n * _LOGIT_BYTES,
        flops=2 * m * n * k,
    )


def _logits_int8(m: int, n: int, k: int, itemsize: int) -> Case:
    def make(inputs: Inputs) -> Arguments:
        return inputs.normal(m, k), *_int8(inputs, n, k)

    return _int8_case(
        op="skinny_logits_int8",
        sizes=f"head {n}x{k} M={m}",
        make=make,
        num_bytes=n * (k + _SCALE_BYTES) + m * k * itemsize + m * n * _LOGIT_BYTES,
        flops=2 * m * n * k,
    )


def _int8_case(op: str, make: Callable[[Inputs], Arguments], **rest: Any) -> Case:
    """Of int8 weights, the second argument: held as the kernels take them, plain for torch."""

    def make_held(inputs: Inputs) -> Arguments:
        first, weight, *others = make(inputs)
        return first, ops.pack_int8(weight) if ops.takes_packed_int8(weight) else weight, *others

    def make_peer(inputs: Inputs) -> Call:
        return partial(OPS[op].body, *make(inputs))

    return Case(op=op, make=make_held, make_peer=make_peer, **rest)


def _int8(inputs: Inputs, n: int, k: int) -> tuple[Tensor, Tensor]:
    """Weight and scale."""
    values = inputs.normal(n, k, dtype=torch.float32).mul_(40).clamp_(-127, 127)
    return values.to(torch.int8), inputs.uniform(n)
