# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer convert`, and what the other commands make of FasterTransformer's own folders."""

import json
import shutil

import pytest
from commands import run
from safetensors.torch import load_file

from fastertransformer.cli.checkpoint import find_tokenizer
from fastertransformer.cli.repository import write_repository


@pytest.fixture(scope="module")
def own(llama, tmp_path_factory):
    """The llama as FasterTransformer's files, for two ranks; and what the command printed."""
    folder = tmp_path_factory.mktemp("own")
    done = run("convert", llama, folder, "--to", "fastertransformer", "--tensor-para-size", 2)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_final_table_says_what_was_done(llama, own):
    folder, printed = own
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines()]
    facts = {row[0]: row[1] for row in rows if len(row) == 2}
    assert f"{folder / '2-gpu'} is written" in " ".join(printed.split())  # a long path breaks the line
    assert (facts["from"], facts["to"]) == ("llama", "fastertransformer-llama")
    tensors = load_file(llama / "model.safetensors")
    assert facts["parameters"] == f"{sum(tensor.numel() for tensor in tensors.values()):,}"
    assert "tokenizer.json" in facts["copied"]


def test_check_reads_it(own):
    done = run("check", own[0], "--tensor-para-size", 2)
    assert done.returncode == 0, done.stderr
    assert "fastertransformer-llama" in done.stdout


def test_back_again(llama, own, tmp_path):
    done = run("convert", own[0], tmp_path / "back", "--to", "huggingface")
    assert done.returncode == 0, done.stderr
    before, after = (load_file(place / "model.safetensors") for place in (llama, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_it_is_served_with_its_tokenizer(own, tmp_path):
    folder = own[0]
    assert find_tokenizer(folder) == find_tokenizer(folder / "2-gpu") == folder / "2-gpu"
    write_repository(folder, tmp_path, {"data_type": "fp32"})
    written = (tmp_path / "text" / "config.pbtxt").read_text()
    assert f'"{folder}"' in written
    assert f'"{folder / "2-gpu"}"' in written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onnx"], "'onnx' is none of fastertransformer, huggingface"),
        (["--data-type", "int8"], "'int8' is none of auto, fp32, fp16, bf16"),
        (["--tensor-para-size", "0"], "--tensor-para-size"),
    ],
)
def test_wrong_usage(llama, arguments, message, tmp_path):
    done = run("convert", llama, tmp_path / "new", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_nothing_is_left_of_what_failed(llama, tmp_path):
    broken = shutil.copytree(llama, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    done = run("convert", broken, tmp_path / "new" / "deep")
    assert done.returncode == 1
    assert "has no tensor model.layers.2." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_what_cannot_be_converted_is_told(llama, tmp_path):
    done = run("convert", llama, tmp_path / "new", "--tensor-para-size", 3)
    assert done.returncode == 1
    assert "num_attention_heads 4 is not divisible by tensor_para_size 3" in done.stderr
    assert "Traceback" not in done.stderr
