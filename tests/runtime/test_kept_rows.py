# SPDX-License-Identifier: BSD-3-Clause
"""The last layer of a step computes behind its attention only the tokens that are wanted there."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from step_batches import batch_of
from tiny_checkpoints import make
from torch import Tensor

from fastertransformer.config import EngineConfig
from fastertransformer.layers.adapter import Adapter
from fastertransformer.layers.ia3 import Ia3
from fastertransformer.layers.mlp import Mlp
from fastertransformer.models import Model, load
from fastertransformer.models.block import TOPOLOGIES, AnyBlock, Pair
from fastertransformer.models.spec import Residual
from fastertransformer.parallel.comm import SingleRank
from fastertransformer.parallel.mesh import Mesh
from fastertransformer.quant.dense import DenseWeight
from fastertransformer.runtime.device_batch import CacheLayout, DeviceBatch, place
from fastertransformer.runtime.memory import workspace_size

BLOCK_SIZE, NUM_BLOCKS = 8, 64
NUM_COMPUTED = [0, 9, 4, 0]
MANY, FEW = [5, 1, 70, 3], [5, 1, 30, 3]
"""How many tokens the sequences compute: more than the kernels for few rows take, and fewer."""
DATA_TYPES = {"fp32": 1e-4, "bf16": 0.03}
"""Their tolerances, of the norm of all logits."""
CASES = {
    "llama": Residual.PRE,
    "opt-350m": Residual.POST,
    "gpt_neox": Residual.PARALLEL,
    "falcon-groups": Residual.PARALLEL,
    "gptj": Residual.PARALLEL_ONE_NORM,
    "phi": Residual.PARALLEL_ONE_NORM,
    "gemma2": Residual.SANDWICH,
    "gpt2": Residual.ADAPTED,
}
"""Of tiny_checkpoints; the adapters are put into gpt2 here."""
WIDE = {"hidden_size": 256, "num_attention_heads": 4}
"""Rows of the weights that suit the kernels for Hopper."""


class Steps:
    """One step over a cache of random keys, with whatever tokens are wanted.

    Args:
        ia3: tasks of the MLPs, other ones for each sequence. sizes: what differs from the case's.
        multiple: as of `place`.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        name: str,
        query_lens: list[int] = MANY,
        ia3: bool = False,
        sizes: dict[str, object] | None = None,
        multiple: int = 1,
        **config: object,
    ) -> None:
        self._multiple = multiple
        self.num_placed = 0
        """Tokens of the last step, those of nobody included."""
        make(name, folder, **(sizes or {}))
        engine_config = EngineConfig(model_checkpoint_path=str(folder), **config)
        model = load(engine_config, Mesh(), SingleRank(), device, lambda *_: None)
        assert isinstance(model, Model)
        model = with_adapters(model) if CASES[name] is Residual.ADAPTED else model
        self.model = with_ia3(model) if ia3 else model
        assert self.model.blocks[-1].topology is TOPOLOGIES[CASES[name]]
        shape = model.kv_cache_shape(NUM_BLOCKS, BLOCK_SIZE)
        self._before = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(device, model.dtype)
        self._workspace = torch.zeros(workspace_size(engine_config, model, NUM_BLOCKS), device=device)
        self._ia3_rows = np.array([1, 0, 2, 1], np.int32) if ia3 else None
        self.cache = self._before
        self._query_lens = query_lens
        self.num_tokens = sum(query_lens)

    @torch.inference_mode()
    def left(self, kept: list[int] | None) -> tuple[Tensor, Tensor]:
        """What the layers leave; the cache is as before but for this step's keys and values."""
        step, device = self._step(), self.model.device
        self.cache = self._before.clone()
        self.num_placed = len(step.token_slots)
        ids = torch.arange(self.num_placed, dtype=torch.int32, device=device) % self.num_tokens + 5
        rows = None if kept is None else torch.tensor(kept, dtype=torch.int32, device=device)
        hidden = self.model.embed(ids, step.metadata.positions)
        return self.model.forward(hidden, step.metadata, self.cache.unbind(), rows)

    @torch.inference_mode()
    def logits(self, kept: list[int] | None) -> Tensor:
        return self.model.logits(*self.left(kept))

    def last_tokens(self) -> list[int]:
        return [end - 1 for end in itertools.accumulate(self._query_lens)]

    def _step(self) -> DeviceBatch:
        batch = batch_of(*NUM_COMPUTED, query_lens=self._query_lens)
        tables = np.random.default_rng(1).permutation(NUM_BLOCKS)[:40].astype(np.int32).reshape(4, 10)
        layout = CacheLayout(BLOCK_SIZE, self.model.num_kv_heads)
        batch = replace(batch, block_tables=tables, ia3_rows=self._ia3_rows)
        return place(batch, layout, self._workspace, self._multiple)


def with_adapters(model: Model) -> Model:
    """The MLP of each layer behind its attention and behind itself too."""
    topology = TOPOLOGIES[Residual.ADAPTED]
    blocks = (
        replace(block, topology=topology, adapters=dict.fromkeys(topology.adapters, adapter_of(block)))
        for block in model.blocks
    )
    return replace(model, blocks=tuple(blocks))


def adapter_of(block: AnyBlock) -> Adapter:
    assert isinstance(block.mlp, Mlp)
    return Adapter(block.mlp, block.group)


def with_ia3(model: Model) -> Model:
    """Factors of two tasks in the MLP of the last layer."""
    *others, last = model.blocks
    assert isinstance(last.mlp, Mlp)
    assert isinstance(last.mlp.down.weight, DenseWeight)
    width = last.mlp.down.weight.tensor.shape[1]
    factors = torch.rand((2, width), generator=torch.Generator().manual_seed(4)) + 0.5
    ia3 = Ia3(factors.to(model.device, model.dtype))
    mlp = Mlp(last.mlp.up, last.mlp.down, last.mlp.kind, last.mlp.is_gated, ia3)
    pair = replace(last.pair, mlp=mlp) if isinstance(last.pair, Pair) else None
    return replace(model, blocks=(*others, replace(last, mlp=mlp, pair=pair)))


def assert_kept_rows_are_those_of_all(steps: Steps, tolerance: float) -> None:
    """The last token of each sequence, one, some in any order, some twice, all but in another order."""
    expected, cache = steps.logits(None), steps.cache
    last = steps.num_tokens - 1
    for kept in (steps.last_tokens(), [6], [last, 0, last // 2, 3, 2], [3, 3, 9], [*range(last, -1, -1)]):
        found = steps.logits(kept)
        assert found.shape == (len(kept), expected.shape[1])
        assert (found - expected[kept]).norm() <= tolerance * expected[kept].norm(), kept
        assert torch.equal(steps.cache, cache), kept


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("data_type", DATA_TYPES)
@pytest.mark.parametrize("query_lens", [MANY, FEW], ids=["many", "few"])
def test_kept_rows_are_those_of_all_rows(name, data_type, query_lens, device, tmp_path):
    steps = Steps(tmp_path, device, name, query_lens, data_type=data_type)
    assert_kept_rows_are_those_of_all(steps, DATA_TYPES[data_type])


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("int8_mode", [0, 1])
@pytest.mark.parametrize("sizes", [{}, WIDE], ids=["narrow", "wide"])
def test_of_few_rows_the_bits_are_the_same(name, int8_mode, sizes, tmp_path):
    """Sums of products of up to 64 rows have one order, of two matrices side by side too."""
    config = {"data_type": "bf16", "int8_mode": int8_mode}
    steps = Steps(tmp_path, torch.device("cuda"), name, FEW, sizes=sizes, **config)
    assert_kept_rows_are_those_of_all(steps, 0.0)


@pytest.mark.parametrize("name", ["llama", "opt-350m", "gptj"])
@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_int8_weights(name, data_type, device, tmp_path):
    steps = Steps(tmp_path, device, name, data_type=data_type, int8_mode=1)
    assert_kept_rows_are_those_of_all(steps, DATA_TYPES[data_type])


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gptj"])
def test_every_kept_token_has_the_task_of_its_sequence(name, device, tmp_path):
    with_tasks = Steps(tmp_path, device, name, ia3=True)
    assert_kept_rows_are_those_of_all(with_tasks, DATA_TYPES["fp32"])
    without = Steps(tmp_path, device, name)
    logits = [steps.logits(steps.last_tokens()) for steps in (with_tasks, without)]
    differs = (logits[0] - logits[1]).abs().amax(1) > 1e-3
    assert differs.tolist() == [True, False, True, True]


@pytest.mark.parametrize("name", CASES)
def test_of_no_row_there_are_keys_and_values_alone(name, device, tmp_path):
    steps = Steps(tmp_path, device, name)
    steps.left(None)
    cache = steps.cache

    def unreachable(*_: object) -> Tensor:
        raise AssertionError("nobody wants this")

    *others, last = steps.model.blocks
    ended = replace(last, attention=unreachable, mlp=unreachable, pair=unreachable)
    steps.model = replace(steps.model, blocks=(*others, ended))
    assert [tuple(part.shape) for part in steps.left([])] == [(0, 48), (0, 48)]
    assert torch.equal(steps.cache, cache)


def test_every_topology_has_a_case():
    assert set(CASES.values()) == set(Residual)


@pytest.mark.parametrize(("name", "ia3"), [*((name, False) for name in CASES), ("llama", True)])
def test_tokens_of_nobody_change_nothing(name, ia3, device, tmp_path):
    alone = Steps(tmp_path / "alone", device, name, ia3=ia3)
    filled = Steps(tmp_path / "filled", device, name, ia3=ia3, multiple=64)
    expected, found = (steps.logits(steps.last_tokens()) for steps in (alone, filled))
    assert (found - expected).norm() <= DATA_TYPES["fp32"] * expected.norm()
    assert (filled.cache - alone.cache).norm() <= DATA_TYPES["fp32"] * alone.cache.norm()
    assert filled.num_placed == 128


def test_few_tokens_are_not_filled_up(device, tmp_path):
    steps = Steps(tmp_path, device, "llama", FEW, multiple=64)
    steps.left(None)
    assert steps.num_placed == sum(FEW)
