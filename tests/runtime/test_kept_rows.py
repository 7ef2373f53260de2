# SPDX-License-Identifier: BSD-3-Clause
"""The last layer of a step computes behind its attention only the tokens that are wanted there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from step_batches import batch_of
from tiny_checkpoints import make
from torch import Tensor

from fastertransformer.config import EngineConfig
from fastertransformer.layers.ia3 import Ia3
from fastertransformer.layers.mlp import Mlp
from fastertransformer.models import Model, load
from fastertransformer.models.block import TOPOLOGIES, Pair
from fastertransformer.models.spec import Residual
from fastertransformer.parallel.comm import SingleRank
from fastertransformer.parallel.mesh import Mesh
from fastertransformer.quant.dense import DenseWeight
from fastertransformer.runtime.device_batch import CacheLayout, DeviceBatch, place
from fastertransformer.runtime.memory import workspace_size

BLOCK_SIZE, NUM_BLOCKS = 8, 64
QUERY_LENS, NUM_COMPUTED = [5, 1, 70, 3], [0, 9, 4, 0]
NUM_TOKENS = sum(QUERY_LENS)
KEPT = [[4, 5, 75, 78], [6], [78, 0, 40, 3, 2], [3, 3, 9], [*range(NUM_TOKENS - 1, -1, -1)]]
"""The last token of each sequence, one, some in any order, some twice, all but in another order."""
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


class Steps:
    """One step over a cache of random keys, with whatever tokens are wanted.

    Args:
        ia3: tasks of the MLPs, other ones for each sequence.
    """

    def __init__(
        self, folder: Path, device: torch.device, name: str = "llama", ia3: bool = False, **config: object
    ) -> None:
        make(name, folder)
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

    @torch.inference_mode()
    def left(self, kept: list[int] | None) -> tuple[Tensor, Tensor]:
        """What the layers leave; the cache is as before but for this step's keys and values."""
        step, device = self._step(), self.model.device
        self.cache = self._before.clone()
        ids = torch.arange(NUM_TOKENS, dtype=torch.int32, device=device) + 5
        rows = None if kept is None else torch.tensor(kept, dtype=torch.int32, device=device)
        hidden = self.model.embed(ids, step.metadata.positions)
        return self.model.forward(hidden, step.metadata, self.cache.unbind(), rows)

    @torch.inference_mode()
    def logits(self, kept: list[int] | None) -> Tensor:
        return self.model.logits(*self.left(kept))

    def _step(self) -> DeviceBatch:
        batch = batch_of(*NUM_COMPUTED, query_lens=QUERY_LENS)
        tables = np.random.default_rng(1).permutation(NUM_BLOCKS)[:40].astype(np.int32).reshape(4, 10)
        layout = CacheLayout(BLOCK_SIZE, self.model.num_kv_heads)
        return place(replace(batch, block_tables=tables, ia3_rows=self._ia3_rows), layout, self._workspace)


def with_adapters(model: Model) -> Model:
    """The MLP of each layer behind its attention and behind itself too."""
    topology = TOPOLOGIES[Residual.ADAPTED]
    blocks = (
        replace(block, topology=topology, adapters=dict.fromkeys(topology.adapters, block.mlp))
        for block in model.blocks
    )
    return replace(model, blocks=tuple(blocks))


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
    expected, cache = steps.logits(None), steps.cache
    for kept in KEPT:
        found = steps.logits(kept)
        assert found.shape == (len(kept), expected.shape[1])
        assert (found - expected[kept]).norm() <= tolerance * expected[kept].norm(), kept
        assert torch.equal(steps.cache, cache), kept


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_kept_rows_are_those_of_all_rows(name, data_type, device, tmp_path):
    steps = Steps(tmp_path, device, name, data_type=data_type)
    assert_kept_rows_are_those_of_all(steps, DATA_TYPES[data_type])


@pytest.mark.parametrize("name", ["llama", "opt-350m", "gptj"])
@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_int8_weights(name, data_type, device, tmp_path):
    steps = Steps(tmp_path, device, name, data_type=data_type, int8_mode=1)
    assert_kept_rows_are_those_of_all(steps, DATA_TYPES[data_type])


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gptj"])
def test_every_kept_token_has_the_task_of_its_sequence(name, device, tmp_path):
    with_tasks = Steps(tmp_path, device, name, ia3=True)
    assert_kept_rows_are_those_of_all(with_tasks, DATA_TYPES["fp32"])
    without = Steps(tmp_path, device, name).logits([4, 5, 75, 78])
    differs = (with_tasks.logits([4, 5, 75, 78]) - without).abs().amax(1) > 1e-3
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
