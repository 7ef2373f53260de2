# SPDX-License-Identifier: BSD-3-Clause
"""Experts in grouped products against one after the other."""

import pytest
import torch

from fastertransformer.layers.linear import Linear
from fastertransformer.layers.mlp import Mlp
from fastertransformer.layers.moe import ExpertLoop, GroupedExperts, MoeMlp, Router, join
from fastertransformer.quant.dense import DenseWeight
from fastertransformer.quant.int8 import Int8Weight

HIDDEN, INTERMEDIATE, NUM_EXPERTS, TOP_K = 64, 96, 6, 2
CASES = [
    ("cpu", torch.float32),
    ("cpu", torch.bfloat16),
    pytest.param("cuda", torch.bfloat16, marks=pytest.mark.gpu),
    pytest.param("cuda", torch.float16, marks=pytest.mark.gpu),
]


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def experts(device: str, dtype: torch.dtype, is_int8: bool = False) -> list[Mlp]:
    def weight(rows: int, columns: int, seed: int) -> Linear:
        matrix = (random(rows, columns, seed=seed) * columns**-0.5).to(device, dtype)
        held = Int8Weight.from_float(matrix, matrix.abs().amax(1)) if is_int8 else DenseWeight(matrix)
        return Linear(held, None)

    return [
        Mlp(weight(2 * INTERMEDIATE, HIDDEN, i), weight(HIDDEN, INTERMEDIATE, 100 + i), "silu", True)
        for i in range(NUM_EXPERTS)
    ]


def router(device: str, dtype: torch.dtype) -> Router:
    return Router(random(NUM_EXPERTS, HIDDEN, seed=7).to(device, dtype), TOP_K, True)


@pytest.mark.parametrize("num_tokens", [1, 9, 64, 500])
@pytest.mark.parametrize(("device", "dtype"), CASES)
def test_grouped_is_as_one_after_the_other(device, dtype, num_tokens):
    """500 tokens are so many that torch's grouped product takes them, where there is one."""
    mlps = experts(device, dtype)
    ups = torch.stack([mlp.up.weight.tensor for mlp in mlps])
    downs = torch.stack([mlp.down.weight.tensor for mlp in mlps])
    x = random(num_tokens, HIDDEN, seed=3).to(device, dtype)
    shared = random(num_tokens, HIDDEN, seed=4).to(device, dtype)
    shares, chosen = router(device, dtype)(x)
    one_by_one = ExpertLoop(mlps)(x, shares, chosen, shared)
    result = GroupedExperts(ups, downs, "silu")(x, shares, chosen, shared)
    torch.testing.assert_close(result, one_by_one, atol=5e-2, rtol=3e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_tokens", [3, 500])
def test_a_graph_holds_them(num_tokens, dtype):
    layer = MoeMlp(router("cuda", dtype), join(experts("cuda", dtype)), None)
    assert layer.is_capturable
    given = torch.zeros(num_tokens, HIDDEN, device="cuda", dtype=dtype)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.inference_mode():
        layer(given)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            result = layer(given)
        for seed in range(3):
            x = random(num_tokens, HIDDEN, seed=seed).to("cuda", dtype)
            given.copy_(x)
            graph.replay()
            torch.testing.assert_close(result, layer(x), atol=5e-2, rtol=3e-2)


def test_other_formats_and_devices_take_one_after_the_other():
    assert not MoeMlp(router("cpu", torch.bfloat16), join(experts("cpu", torch.bfloat16)), None).is_capturable


@pytest.mark.gpu
def test_int8_experts_read_back():
    layer = MoeMlp(router("cuda", torch.bfloat16), join(experts("cuda", torch.bfloat16, is_int8=True)), None)
    assert not layer.is_capturable
    assert layer(torch.ones(3, HIDDEN, device="cuda", dtype=torch.bfloat16)).isfinite().all()
