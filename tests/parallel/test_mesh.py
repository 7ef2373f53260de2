# SPDX-License-Identifier: BSD-3-Clause
"""Rank arithmetic: tensor-parallel rank fastest, stages contiguous, every layer on exactly one stage."""

import pytest

from fastertransformer.parallel.mesh import Mesh


def test_tensor_parallel_rank_is_fastest():
    places = [(Mesh(2, 3, rank).tp_rank, Mesh(2, 3, rank).pp_rank) for rank in range(6)]
    assert places == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(("layers", "stages"), [(30, 1), (30, 4), (3, 3), (7, 2)])
def test_every_layer_has_one_stage(layers, stages):
    parts = [Mesh(1, stages, rank).layers(layers) for rank in range(stages)]
    assert [layer for part in parts for layer in part] == list(range(layers))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_only_the_ends_embed_and_sample():
    stages = [Mesh(1, 3, rank) for rank in range(3)]
    assert [stage.is_first_stage for stage in stages] == [True, False, False]
    assert [stage.is_last_stage for stage in stages] == [False, False, True]
