# SPDX-License-Identifier: BSD-3-Clause
"""Products with many rows by the libraries behind torch: cuBLAS, MKL and oneDNN.

In float32 on a CPU torch takes MKL, which gives an AMD AVX2 alone. With AVX-512 oneDNN is 2.3 times as fast
there; it is reached by what torch.compile calls.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from .activation import activation
from .registry import cpu_set

_ROWS = 64
"""oneDNN makes code for every number of rows that comes, in milliseconds: they are filled up to multiples."""
_ONEDNN = {"relu": ("relu", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}
"""What it applies to sums, and by which algorithm."""
_CUBLAS = {"gelu_tanh": True, "relu": False}
"""What it applies to the sums of a product with a bias, and whether torch calls it a GELU."""


def library_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight^T + bias: x [M, K], weight [N, K], bias [N] -> [M, N]."""
    return _onednn(x, weight, bias, "none", "") if _takes_onednn(x) else F.linear(x, weight, bias)


def library_activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """act(library_linear(x, weight, bias)); kinds as in `activation`."""
    if _takes_onednn(x) and kind in _ONEDNN:
        return _onednn(x, weight, bias, *_ONEDNN[kind])
    if bias is not None and _cublas_activates(x, kind):
        return torch._addmm_activation(bias, x, weight.T, use_gelu=_CUBLAS[kind])
    return activation(library_linear(x, weight, bias), kind)


def library_activates(x: Tensor, bias: Tensor | None, kind: str) -> bool:
    """Whether library_activated_linear(x, weight, bias, kind) is one pass over the result."""
    is_cublas = bias is not None and _cublas_activates(x, kind)
    return is_cublas or (_takes_onednn(x) and kind in _ONEDNN)


def library_logits(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight^T in float32, of which a GPU rounds no sum."""
    if x.is_cuda and x.dtype != torch.float32:
        return torch.mm(x, weight.T, out_dtype=torch.float32)
    return library_linear(x, weight, None).float()


def library_rows(device: torch.device, dtype: torch.dtype) -> int:
    """Of what multiple of rows the functions here make no copy."""
    return _ROWS if device.type == "cpu" and dtype == torch.float32 and _has_onednn() else 1


def _cublas_activates(x: Tensor, kind: str) -> bool:
    """Given a bias."""
    return x.is_cuda and x.dtype != torch.float32 and kind in _CUBLAS


def _takes_onednn(x: Tensor) -> bool:
    return library_rows(x.device, x.dtype) > 1


@functools.cache
def _has_onednn() -> bool:
    return cpu_set() == "avx512" and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, act: str, algorithm: str) -> Tensor:
    rows = x.shape[0]
    if missing := -rows % _ROWS:
        filled = x.new_empty((rows + missing, x.shape[1]))
        filled[:rows], filled[rows:] = x, 0.0
        x = filled
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, act, [], algorithm)
    return product[:rows]
