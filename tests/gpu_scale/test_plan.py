# SPDX-License-Identifier: BSD-3-Clause
"""What is planned for which machine, and what is said of the rest."""

from pathlib import Path

import pytest

from gpu_scale.hardware import Hardware
from gpu_scale.plan import ROOT, Step, make_plan, memory_needed

GB = 10**9
H200 = 150 * GB


def planned(gpus: int, memory: int = H200) -> dict[str, Step]:
    steps = make_plan(Hardware(tuple(map(str, range(gpus))), "a GPU", memory))
    assert len({step.name for step in steps}) == len(steps)
    assert all(step.missing or step.gpus <= gpus for step in steps)
    return {step.name: step for step in steps}


def test_eight_gpus_run_everything():
    steps = planned(8)
    assert not [step.missing for step in steps.values() if step.missing]
    for shape in ("llama-2-7b", "gpt-neox-20b", "llama-2-70b"):
        for mesh, gpus in {"1x1": 1, "2x1": 2, "4x1": 4, "8x1": 8, "4x2": 8}.items():
            assert steps[f"{shape} {mesh}"].gpus == gpus
    for ranks in (2, 4, 8):
        assert "--share-gpus" not in steps[f"sums over {ranks} ranks"].command
        assert "--norm" in steps[f"sums with norms over {ranks} ranks"].command
    assert steps["kill -9 of one of 8 ranks, engine"].gpus == 8


def test_one_gpu_checks_what_ranks_can_do_that_share_it_and_measures_what_fits():
    steps = planned(1)
    for ranks in (2, 4, 8):
        assert "--share-gpus" in steps[f"sums over {ranks} ranks on one GPU"].command
        assert "--share-gpus" in steps[f"sums with norms over {ranks} ranks on one GPU"].command
    assert steps["tiny model equal on 4x2"].missing == "needs 8 GPUs, there are 1"
    assert not steps["tiny model equal on ranks that share a GPU"].missing
    assert not steps["llama-2-7b 1x1"].missing
    assert steps["llama-2-7b 2x1"].missing == "needs 2 GPUs, there are 1"
    assert steps["instance groups, engines"].gpus == 1


def test_what_does_not_fit_into_the_memory_is_not_begun():
    steps = planned(2, memory=80 * GB)
    assert steps["llama-2-70b 1x1"].missing == "needs 144 GB of each GPU, they have 80"
    assert not steps["llama-2-70b 2x1"].missing


@pytest.mark.parametrize(("shape", "billions"), [("llama-2-7b", 6.74), ("llama-2-70b", 69.0)])
def test_memory_is_that_of_the_published_sizes(shape, billions):
    assert memory_needed(shape) == pytest.approx(2e9 * billions, rel=0.5)
    assert memory_needed(shape) > 2e9 * billions


@pytest.mark.parametrize("step", planned(8).values(), ids=str)
def test_tests_that_are_named_exist(step):
    nodes = [word for word in step.command if word.startswith("tests/")]
    for node in nodes:
        file, _, name = node.partition("::")
        assert f"def {name.partition('[')[0]}" in Path(ROOT, file).read_text()
        if mesh := name.partition("[")[2].rstrip("]"):
            assert f'"{mesh}"' in Path(ROOT, file).read_text()
