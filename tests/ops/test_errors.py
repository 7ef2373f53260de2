# SPDX-License-Identifier: BSD-3-Clause
"""Launchers refuse what their kernels cannot read, before they read it, and say which argument it is."""

import inspect
from typing import Any

import pytest
import torch
from kernels import CPU_SETS, KERNEL_SETS, sets_with
from torch import Tensor

from fastertransformer import _C
from fastertransformer.ops.registry import OPS

X, WEIGHT, TABLE = torch.ones(3, 8), torch.ones(8), torch.ones(5, 8)
LIST = torch.ones(3, dtype=torch.int32)
POOL = torch.ones(4, 6, dtype=torch.int32)
HEADS, CACHE, COS_SIN = torch.ones(3, 2, 8), torch.ones(2, 2, 4, 8), torch.ones(5, 4)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "rms_norm": (X, WEIGHT, 1e-5),
    "add_rms_norm": (X, X, WEIGHT, 1e-5, True),
    "layer_norm": (X, WEIGHT, WEIGHT, 1e-5),
    "add_layer_norm": (X, X, WEIGHT, WEIGHT, 1e-5, True),
    "activation": (X, "gelu"),
    "gated_activation": (X, "gelu"),
    "add": (X, X),
    "embedding": (LIST, TABLE),
    "add_positions": (X, TABLE, LIST),
    "pool": (X, LIST, "mean"),
    "take_tokens": (POOL, LIST, LIST),
    "put_tokens": (POOL, LIST, LIST, LIST),
    "rope": (HEADS, HEADS, LIST, COS_SIN, False),
    "kv_write": (HEADS, HEADS, CACHE, CACHE, LIST),
    "rope_kv_write": (HEADS, HEADS, HEADS, LIST, COS_SIN, False, CACHE, CACHE, LIST),
}


def launch(kernels: str, name: str, **replaced: Any) -> None:
    """Calls the launcher with good arguments but for the replaced ones; `out` is one of them."""
    given = dict(zip(inspect.signature(OPS[name].body).parameters, ARGUMENTS[name], strict=True))
    if (out := OPS[name].out) is not None:
        given = {"out": out(*given.values()), **given}
    device = "cuda" if kernels == "cuda" else "cpu"
    copies = {key: value.to(device, copy=True) for key, value in given.items() if isinstance(value, Tensor)}
    stream = (torch.cuda.current_stream().cuda_stream,) if kernels == "cuda" else ()
    module = _C.cuda if kernels == "cuda" else getattr(_C.cpu_sets, kernels)
    getattr(module, name)(*(given | copies | replaced).values(), *stream)


def tensors(name: str) -> dict[str, Tensor]:
    """The tensors among the arguments of a launcher."""
    values = dict(zip(inspect.signature(OPS[name].body).parameters, ARGUMENTS[name], strict=True))
    if (out := OPS[name].out) is not None:
        values["out"] = out(*ARGUMENTS[name])
    return {key: value for key, value in values.items() if isinstance(value, Tensor)}


def cases(kernels: str) -> list[tuple[str, str]]:
    """(op, argument)"""
    names = [name for name in ARGUMENTS if kernels == "cuda" or kernels in sets_with(name)]
    return [(name, argument) for name in names for argument in tensors(name)]


def refuses(kernels: str, name: str, argument: str, bad: dict[str, Tensor]) -> None:
    for reason, tensor in bad.items():
        with pytest.raises(ValueError, match=f"^{name}: {argument} {reason}"):
            launch(kernels, name, **{argument: tensor})


def bad_tensors(good: Tensor) -> dict[str, Tensor]:
    """Why a tensor is refused -> a tensor that is."""
    bad = {"is int64; expected": good.long(), "has shape .*; expected": good[None]}
    if good.ndim > 1:
        bad["is not contiguous"] = torch.stack((good, good), -1)[..., 0]
    return bad


@pytest.mark.parametrize(
    ("kernels", "name", "argument"), [(kernels, *case) for kernels in CPU_SETS for case in cases(kernels)]
)
def test_bad_tensor_is_named(kernels, name, argument):
    good = tensors(name)[argument]
    launch(kernels, name, **{argument: good})
    refuses(kernels, name, argument, bad_tensors(good))


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "argument"), cases("cuda"))
def test_bad_tensor_on_the_gpu_is_named(name, argument):
    good = tensors(name)[argument]
    launch("cuda", name, **{argument: good.cuda()})
    refuses("cuda", name, argument, bad_tensors(good.cuda()) | {"is not on the GPU": good})


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_type_without_kernels_is_named(kernels):
    with pytest.raises(ValueError, match=r"no kernel takes tensors of torch\.float64"):
        launch(kernels, "rms_norm", x=X.double())
