# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer check`: the facts of a checkpoint that fits, the reason for one that does not."""

import shutil

import pytest
from commands import run


def test_facts_and_memory_of_every_rank(llama):
    done = run("check", llama, "--tensor-para-size", 2, "--pipeline-para-size", 2)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    facts = {row[0]: row[1] for row in rows if len(row) == 2}
    assert facts["family"] == "llama"
    assert facts["heads"] == "4, 2 for keys, 16 wide"
    assert facts["start id, end ids"] == "1, 2"
    ranks = [row for row in rows if len(row) == 4]
    assert [row[:2] for row in ranks] == [[str(rank), "1"] for rank in range(4)]
    # Keys and values of one layer, half of the 2 heads, 16 floats of 4 bytes each.
    assert {row[3] for row in ranks} == {f"{2 * 1 * 16 * 4 / 1024:.1f}"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tensor-para-size", 3], "num_attention_heads 4 is not divisible by tensor_para_size 3"),
        (["--pipeline-para-size", 3], "num_hidden_layers 2 is less than pipeline_para_size 3"),
        (["--data-type", "fp12"], "data_type is 'fp12'; allowed are fp32, fp16, bf16"),
    ],
)
def test_what_does_not_fit_is_told_with_the_numbers(llama, arguments, message):
    done = run("check", llama, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_named(llama, tmp_path):
    copy = shutil.copytree(llama, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for path, message in ((copy, "model.safetensors"), (tmp_path / "nothing", "nothing")):
        done = run("check", path)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
