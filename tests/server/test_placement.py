# SPDX-License-Identifier: BSD-3-Clause
"""Which GPUs an instance gets, and the rules of the old service, each with the numbers that break it."""

from typing import Any

import pytest

from fastertransformer.config import ParallelConfig
from fastertransformer.errors import ModelLoadError
from fastertransformer.server import placement
from fastertransformer.server.placement import Placement, place

GPUS = tuple("01234567")
CPU_GROUP = {"kind": "KIND_CPU", "count": 1}


def parallel(tp: int, pp: int, hostfile: str = "") -> ParallelConfig:
    return ParallelConfig(tensor_para_size=tp, pipeline_para_size=pp, hostfile=hostfile)


@pytest.mark.parametrize(
    ("instance", "instances", "sizes", "gpus", "expected"),
    [
        (0, 1, (8, 1), GPUS, Placement(0, GPUS)),
        (1, 4, (2, 1), GPUS, Placement(1, ("2", "3"))),
        (5, 8, (2, 1), GPUS, Placement(1, ("2", "3"))),  # more instances than groups share them
        (3, 4, (1, 2), ("4", "5", "6", "7"), Placement(1, ("6", "7"))),
        (2, 3, (2, 2), (), Placement()),  # a CPU has room for everybody
    ],
)
def test_instance_i_gets_group_i_modulo_the_number_of_groups(instance, instances, sizes, gpus, expected):
    assert place(instance, instances, parallel(*sizes), gpus) == expected


@pytest.mark.parametrize(
    ("instances", "sizes", "gpus", "rule"),
    [
        (4, (3, 1), GPUS, "must be a multiple of T \\* P"),
        (1, (2, 2), GPUS, "at most instances \\* T \\* P"),
        (2, (8, 2, "hosts"), GPUS, "allow one instance only"),
        (1, (3, 4, "hosts"), GPUS, "must be \\(visible GPUs of a node\\) \\* nodes"),
    ],
)
def test_what_does_not_fit_is_refused_with_all_numbers(instances, sizes, gpus, rule):
    numbers = (
        f"visible GPUs = {len(gpus)}, tensor_para_size T = {sizes[0]}, pipeline_para_size P = {sizes[1]},"
        f" instances = {instances}"
    )
    with pytest.raises(ModelLoadError, match=f"{rule}.*; {numbers}"):
        place(0, instances, parallel(*sizes), gpus)


def test_several_nodes_use_all_their_gpus():
    assert place(0, 1, parallel(8, 2, "hosts"), GPUS) == Placement(0, GPUS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instance_group": [CPU_GROUP] * 2}, "has 2 instance_group entries; exactly one is allowed"),
        ({"instance_group": []}, "has 0 instance_group entries"),
        ({"instance_group": [{"kind": "KIND_GPU"}]}, "kind is KIND_GPU; only KIND_CPU is allowed"),
        ({"sequence_batching": {}, "max_batch_size": 4}, "max_batch_size 4; it needs max_batch_size 1"),
        ({"sequence_batching": {}, "dynamic_batching": {}}, "exclude each other"),
    ],
)
def test_a_config_that_breaks_a_rule_is_refused(changes: dict[str, Any], message: str):
    config = {"instance_group": [CPU_GROUP], "max_batch_size": 1}
    placement.check_model_config(config)
    with pytest.raises(ModelLoadError, match=message):
        placement.check_model_config(config | changes)


@pytest.mark.parametrize(("value", "expected"), [("2, 5", ("2", "5")), ("", ()), ("-1", ())])
def test_visible_gpus_are_those_that_cuda_would_see(monkeypatch, value, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert placement.visible_gpus() == expected


@pytest.mark.parametrize(("name", "index"), [("model_0_3", 3), ("gpt2_0", 0), ("model", 0)])
def test_the_last_number_of_its_name_is_the_index_of_an_instance(name, index):
    assert placement.instance_index(name) == index
