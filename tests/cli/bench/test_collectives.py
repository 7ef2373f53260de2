# SPDX-License-Identifier: BSD-3-Clause
"""The verb `bench-collectives` as a user runs it, on ranks of a CPU; wrong sums and lost ranks are errors."""

import itertools
import json

import pytest
import torch
from commands import run

from fastertransformer.cli.bench.collectives.command import parse_sizes, readable
from fastertransformer.cli.bench.collectives.measure import measure_sums
from fastertransformer.cli.bench.collectives.ways import Way
from fastertransformer.errors import FasterTransformerError
from fastertransformer.parallel.world import LocalWorld


@pytest.mark.parametrize(
    ("ranks", "sizes", "more", "way"),
    [("2", "64,8K", (), "MPI"), ("2,4", "8K", (), "MPI"), ("2", "48,8K", ("--norm",), "MPI, norm")],
)
def test_sums_on_a_cpu(ranks, sizes, more, way, tmp_path):
    path = tmp_path / "figures.json"
    options = ("--device=cpu", "--data-type=bf16", "--timeout=500", f"--json={path}", *more)
    done = run("bench-collectives", f"--ranks={ranks}", f"--size={sizes}", *options, timeout=550)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["sums"]
    expected = itertools.product(map(int, ranks.split(",")), parse_sizes(sizes))
    assert [(row["ranks"], row["num_bytes"]) for row in rows] == list(expected)
    for row in rows:
        assert row["way"] == way
        assert not row["shares_gpu"]
        moved = 2 * (row["ranks"] - 1) / row["ranks"] * row["num_bytes"]
        assert row["gb_per_second"] == pytest.approx(moved / row["us"] / 1e3)
        assert f"{row['ranks']} x {readable(row['num_bytes'])}" in done.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("more", "ways"),
    [
        ((), {"one shot", "two shots"}),
        (("--norm",), {"fused one shot", "fused two shots", "one shot, norm", "two shots, norm"}),
    ],
)
def test_sums_of_ranks_that_share_gpus(ranks, more, ways, tmp_path):
    path = tmp_path / "figures.json"
    options = ("--size=8K,1M,16M", "--share-gpus", f"--json={path}", *more)
    done = run("bench-collectives", f"--ranks={ranks}", *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["sums"]
    assert ways <= {row["way"] for row in rows}
    assert all(row["shares_gpu"] == (ranks > torch.cuda.device_count()) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ranks=1"], "--ranks is '1'; give numbers from 2 on"),
        (["--ranks=two"], "--ranks is 'two'"),
        (["--size=12"], "--size '12' is not a positive multiple of 16"),
        (["--size=8G"], "--size '8G'"),
        (["--ranks=2", "--timeout=0.01"], "2 ranks were not done after 0.01 s"),
    ],
)
def test_what_is_wrong_is_said(arguments, text):
    done = run("bench-collectives", "--device=cpu", *arguments)
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("added", [0, 1])
def test_wrong_sums_are_no_figures(added):
    """Of one rank: its sum is what it brings."""
    ways = [Way("a way", lambda x: x.add_(added)), Way("for less", lambda x: x, max_bytes=64)]
    measured = measure_sums(LocalWorld(), ways, [128], torch.float32)
    if added:
        with pytest.raises(
            FasterTransformerError, match="elements summed by a way, 128 bytes at a time, are wrong"
        ):
            list(measured)
    else:
        ((way, num_bytes, seconds),) = measured
        assert (way.name, num_bytes) == ("a way", 128)
        assert seconds > 0


def test_sizes():
    assert parse_sizes("48,8K,64M") == (48, 8192, 64 << 20)
    assert [readable(size) for size in (48, 8192, 64 << 20, 3 << 10)] == ["48", "8K", "64M", "3K"]
    with pytest.raises(FasterTransformerError, match="0"):
        parse_sizes("0")
