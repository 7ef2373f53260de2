# SPDX-License-Identifier: BSD-3-Clause
"""Random weights for a config.json: every family loads, never zeros, the same on every rank."""

import pytest
import torch
from driver import Driver, load_model
from tiny_checkpoints import CASES, make

from fastertransformer.errors import ModelLoadError
from fastertransformer.models.checkpoint import open_checkpoint
from fastertransformer.parallel.comm import SingleRank
from fastertransformer.parallel.mesh import Mesh

IDS = list(range(3, 30))


@pytest.fixture(scope="module", params=CASES)
def folder(request, tmp_path_factory):
    """config.json alone."""
    folder = tmp_path_factory.mktemp(request.param)
    make(request.param, folder)
    (folder / "model.safetensors").unlink()
    return folder


def test_every_family_computes_with_random_weights(folder):
    first = Driver(load_model(folder, load_format="dummy")).logits(IDS)
    assert bool(first.isfinite().all())
    assert float(first.std()) > 0
    assert torch.equal(first, Driver(load_model(folder, load_format="dummy")).logits(IDS))


def test_a_rank_holds_its_share(folder):
    whole = load_model(folder, load_format="dummy")
    half = load_model(folder, Mesh(2, 1, 1), SingleRank(), load_format="dummy")
    assert half.weight_bytes < whole.weight_bytes


def test_slices_are_parts_of_one_tensor(folder):
    checkpoint = open_checkpoint(str(folder), "dummy")
    whole = checkpoint.slice("a.weight", (6, 10), 0, 0, 6)
    assert bool((whole != 0).all())
    assert torch.equal(checkpoint.slice("a.weight", (6, 10), 0, 2, 5), whole[2:5])
    assert torch.equal(checkpoint.slice("a.weight", (6, 10), 1, 4, 9), whole[:, 4:9])
    assert not torch.equal(checkpoint.slice("b.weight", (6, 10), 0, 0, 6), whole)


def test_norms_are_around_one_and_biases_around_zero(folder):
    checkpoint = open_checkpoint(str(folder), "dummy")
    assert float(checkpoint.slice("norm.weight", (500,), 0, 0, 500).mean()) == pytest.approx(1, abs=0.01)
    assert float(checkpoint.slice("norm.bias", (500,), 0, 0, 500).mean()) == pytest.approx(0, abs=0.01)


def test_without_a_config_there_is_no_shape(tmp_path):
    with pytest.raises(ModelLoadError, match=r"config\.json cannot be read: No such file"):
        load_model(tmp_path, load_format="dummy")
