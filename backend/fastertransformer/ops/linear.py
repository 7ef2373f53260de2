# SPDX-License-Identifier: BSD-3-Clause
"""Matrix products with few rows, of which reading the weights once is all that matters, and activated ones
with many."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .activation import FUNCTIONS
from .int8 import unpack_int8
from .registry import cpu_set, find_kernel, has_kernel, op

_MANY = 1024
_CPU_ROWS = {
    "avx512": {torch.float32: 64, torch.float16: 32, torch.bfloat16: 4},
    "avx2": {torch.float32: _MANY, torch.float16: _MANY, torch.bfloat16: _MANY},
}
"""By the CPU's instruction set. Measured: with AVX-512 torch has matrix instructions for bfloat16, and none
for float16; with AVX2 it takes as long as the kernel for float32, and much longer for the others."""
_CPU_INT8_ROWS = 128
"""Measured with AVX-512: expanding a weight takes as long as some 200 rows of the product with it."""
_GPU_ROWS = 64
_GPU_COLUMNS = 8
"""The columns of the weight must be a multiple of this: rows of 16 bytes."""

_TILE_ROWS = 128
"""Measured: with 192 and more cuBLAS takes less."""
_TILE_SIZE = 768
"""Measured: of models with a hidden size of 1,024 the products of the MLP have no tiles, and those of the
attention alone gain nothing."""
_ACTIVATED_ROWS = 2048
"""Measured: with 8,192 and 12,288 rows of BERT-base's MLP a library's product and a kernel for the activation
take 22 and 28 % more, with 1,500, whose tiles leave half of a GPU idle at the end, 15 % less."""
_GATED_ROWS = 1024
"""Measured: with 512 rows cuBLAS and a kernel for the gate take 4 % less."""


def skinny_rows(weight: Tensor) -> int:
    """Up to how many rows `skinny_linear` beats torch's product with `weight` [N, K]; 0 where never."""
    if not weight.is_cuda:
        return _CPU_ROWS.get(cpu_set(), {}).get(weight.dtype, 0)
    fits = weight.dtype != torch.float32 and weight.shape[1] % _GPU_COLUMNS == 0
    return _GPU_ROWS if fits and has_kernel("cuda", "skinny_linear") else 0


def skinny_int8_rows(weight: Tensor, dtype: torch.dtype) -> int:
    """The same for `skinny_linear_int8` with x in `dtype`, against expanding `weight` for torch's product."""
    if not weight.is_cuda:
        return _CPU_INT8_ROWS
    fits = weight.dtype == torch.uint8 and weight.shape[1] % (2 * _GPU_COLUMNS) == 0
    fits = fits and dtype != torch.float32
    return _GPU_ROWS if fits and has_kernel("cuda", "skinny_linear_int8") else 0


def skinny_fused_rows(weight: Tensor, dtype: torch.dtype) -> int:
    """The same for the products of a GPU that do more: `skinny_activated_linear`, `skinny_linear_sum`."""
    if not weight.is_cuda:
        return 0
    return skinny_rows(weight) if weight.is_floating_point() else skinny_int8_rows(weight, dtype)


def tile_rows(weight: Tensor) -> int:
    """Up to how many rows `tile_linear` beats torch's product with `weight` [N, K]; 0 where never."""
    return _TILE_ROWS if min(weight.shape) <= _TILE_SIZE and _fits(weight, "tile_linear") else 0


def activated_rows(weight: Tensor) -> int | None:
    """From how many rows on `activated_linear` beats torch's product with `weight` [N, K] and an activation
    behind it; None: never."""
    return _ACTIVATED_ROWS if _fits(weight, "activated_linear") else None


def gated_rows(weight: Tensor) -> int | None:
    """The same for `gated_linear` with `weight` [2I, K]."""
    return _GATED_ROWS if _fits(weight, "gated_linear") else None


def _fits(weight: Tensor, name: str) -> bool:
    """Whether the GPU's kernel of op `name` takes it; only the kernel knows."""
    fits = find_kernel("cuda", f"{name}_fits")
    return weight.is_cuda and fits is not None and bool(fits(weight))


@op(out=lambda x, weight, bias: x.new_empty((x.shape[0], weight.shape[0])))
def skinny_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight^T + bias: x [M, K] with few rows, weight [N, K], bias [N] -> [M, N]."""
    return F.linear(x, weight, bias)


@op(out=lambda x, weight, *_: x.new_empty((x.shape[0], weight.shape[0])))
def skinny_activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str, first: int) -> Tensor:
    """act(x @ weight^T + bias) in float32, rounded once; kinds as in `activation`.

    Args:
        first: column of the result from which on it is activated.
    """
    product = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return _activated(product, kind, first).to(x.dtype)


@op(out=lambda x, weight, *_: x.new_empty((x.shape[0], weight.shape[0])))
def skinny_linear_sum(
    x: Tensor, weight: Tensor, second_x: Tensor, second_weight: Tensor, bias: Tensor | None
) -> Tensor:
    """x @ weight^T + second_x @ second_weight^T + bias in float32, rounded once.

    x [M, K] and second_x [M, L] with few rows, weight [N, K], second_weight [N, L], bias [N] -> [M, N].
    """
    product = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return (product + F.linear(second_x.float(), second_weight.float())).to(x.dtype)


@op(out=lambda x, weight, bias, kind: x.new_empty((x.shape[0], weight.shape[0] // 2)))
def skinny_gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """act(gate) * up with [gate, up] = x @ weight^T + bias in float32, rounded once.

    x [M, K] with few rows, weight [2I, K], bias [2I] -> [M, I]; kinds as in `gated_activation`.
    """
    product = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return gated(product, kind).to(x.dtype)


@op(out=lambda x, weight, bias: x.new_empty((x.shape[0], weight.shape[0])))
def tile_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`skinny_linear` of up to 128 rows with a weight so small that multiprocessors hold it together."""
    return F.linear(x, weight, bias)


@op(out=lambda x, weight, *_: x.new_empty((x.shape[0], weight.shape[0])))
def tile_activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """act(x @ weight^T + bias) in float32, rounded once, of the same sizes; kinds as in `activation`."""
    product = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return _activated(product, kind, 0).to(x.dtype)


@op(out=lambda x, weight, bias, kind: x.new_empty((x.shape[0], weight.shape[0])))
def activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """act(x @ weight^T + bias) in float32, rounded once: `skinny_activated_linear` of all columns, with many
    rows."""
    product = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return _activated(product, kind, 0).to(x.dtype)


@op(out=lambda x, weight, kind: x.new_empty((x.shape[0], weight.shape[0] // 2)))
def gated_linear(x: Tensor, weight: Tensor, kind: str) -> Tensor:
    """`skinny_gated_linear` with many rows, without a bias."""
    return gated(F.linear(x.float(), weight.float()), kind).to(x.dtype)


@op(out=lambda x, weight: x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.float32))
def skinny_logits(x: Tensor, weight: Tensor) -> Tensor:
    """`skinny_linear` without a bias, its sums left in float32."""
    return F.linear(x.float(), weight.float())


@op(out=None)
def expand_int8(out: Tensor, weight: Tensor, scale: Tensor) -> None:
    """out = scale * weight in float32, rounded once: weight [N, K] int8, scale [N] float32, out [N, K].

    Here and below int8 may be packed (`pack_int8`), and must be for the kernels of a GPU.
    """
    torch.mul(unpack_int8(weight), scale[:, None], out=out)


@op(out=lambda x, weight, scale, bias: x.new_empty((x.shape[0], weight.shape[0])))
def skinny_linear_int8(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x @ (scale * weight)^T + bias in float32, rounded once.

    x [M, K] with few rows, weight [N, K] int8, scale [N] float32, bias [N] -> [M, N].
    """
    product = F.linear(x.float(), unpack_int8(weight).float()) * scale
    return (product if bias is None else product + bias).to(x.dtype)


@op(out=lambda x, weight, *_: x.new_empty((x.shape[0], weight.shape[0])))
def skinny_activated_linear_int8(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, kind: str, first: int
) -> Tensor:
    """`skinny_activated_linear` with the weights scale * weight: weight [N, K] int8, scale [N] float32."""
    product = F.linear(x.float(), unpack_int8(weight).float()) * scale
    return _activated(product if bias is None else product + bias, kind, first).to(x.dtype)


@op(out=lambda x, weight, scale, bias, kind: x.new_empty((x.shape[0], weight.shape[0] // 2)))
def skinny_gated_linear_int8(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, kind: str
) -> Tensor:
    """`skinny_gated_linear` with the weights scale * weight: weight [2I, K] int8, scale [2I] float32."""
    product = F.linear(x.float(), unpack_int8(weight).float()) * scale
    return gated(product if bias is None else product + bias, kind).to(x.dtype)


@op(out=lambda x, weight, scale: x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.float32))
def skinny_logits_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """`skinny_linear_int8` without a bias, its sums left in float32."""
    return F.linear(x.float(), unpack_int8(weight).float()) * scale


def _activated(product: Tensor, kind: str, first: int) -> Tensor:
    """act of the columns from `first` on, in place."""
    part = product[:, first:]
    part.copy_(FUNCTIONS[kind](part))
    return product


def gated(product: Tensor, kind: str) -> Tensor:
    """act(first half of the columns) * second half."""
    gate, up = product.chunk(2, -1)
    result: Tensor = FUNCTIONS[kind](gate) * up
    return result
