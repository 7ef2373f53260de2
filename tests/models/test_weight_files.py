# SPDX-License-Identifier: BSD-3-Clause
"""Folders from before safetensors hold the same models, and nothing in them is run."""

import json
import os
from collections import OrderedDict
from pathlib import Path

import encoder_checkpoints
import pytest
import tiny_checkpoints
import tiny_encoder_decoders
import torch
from driver import Driver, load_model
from safetensors.torch import load_file
from torch import Tensor

from fastertransformer.errors import ModelLoadError
from fastertransformer.models.checkpoint import open_checkpoint

CASES = {
    tiny_checkpoints: "gpt2 gpt_neo gptj opt opt-350m bloom llama-mqa-tied codegen xglm phi",
    tiny_encoder_decoders: "t5 t5-gated bart mbart m2m_100 marian pegasus",
    encoder_checkpoints: "bert-pretraining bert-masked roberta-masked distilbert-masked deberta-masked",
}
WEIGHTS, OLD = "model.safetensors", "pytorch_model.bin"
IDS = list(range(3, 30))


def make_old(module, name: str, folder: Path, **how: object) -> dict[str, Tensor]:
    """A folder with the state dict as torch saves it, tied tensors under all their names; the tensors that
    safetensors has."""
    state = module.make(name, folder).state_dict()
    stored = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(OrderedDict(state), folder / OLD, **how)
    return stored


@pytest.fixture
def gpt2(tmp_path):
    make_old(tiny_checkpoints, "gpt2", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in CASES.items() for name in names.split()]
)
def test_every_family_loads_and_has_the_same_tensors(tmp_path, module, name):
    stored = make_old(module, name, tmp_path)
    load_model(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    for key, tensor in stored.items():
        shape = tuple(tensor.shape)
        assert torch.equal(checkpoint.slice(key, shape, 0, 0, shape[0]), tensor)
        assert torch.equal(checkpoint.slice(key, shape, len(shape) - 1, 1, 3), tensor[..., 1:3])


def test_the_format_of_torch_before_1_6(tmp_path):
    stored = make_old(tiny_checkpoints, "opt", tmp_path, _use_new_zipfile_serialization=False)
    checkpoint = open_checkpoint(str(tmp_path))
    assert all(torch.equal(checkpoint.slice(k, tuple(v.shape), 0, 0, len(v)), v) for k, v in stored.items())
    load_model(tmp_path)


def test_many_files(gpt2, tmp_path_factory):
    parts = tmp_path_factory.mktemp("parts")
    state = torch.load(gpt2 / OLD, weights_only=True)
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(state)}
    for file in set(files.values()):
        torch.save({name: state[name] for name in state if files[name] == file}, parts / file)
    (parts / f"{OLD}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (parts / "config.json").write_bytes((gpt2 / "config.json").read_bytes())
    assert torch.equal(Driver(load_model(parts)).logits(IDS), Driver(load_model(gpt2)).logits(IDS))
    (parts / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ModelLoadError, match=r"pytorch_model-00002-of-00002\.bin is missing"):
        load_model(parts)


def test_safetensors_are_preferred(gpt2):
    tiny_checkpoints.make("gpt2", gpt2)
    (gpt2 / OLD).write_bytes(b"never read")
    load_model(gpt2)


def test_tensors_of_another_model_are_refused(gpt2):
    state = torch.load(gpt2 / OLD, weights_only=True)
    torch.save({**state, "rogue.weight": torch.ones(3)}, gpt2 / OLD)
    with pytest.raises(ModelLoadError, match=r"1 tensors of the checkpoint do not belong .*: rogue\.weight"):
        load_model(gpt2)


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_code_runs(gpt2, tmp_path):
    trap = tmp_path / "trap"
    torch.save({"wte.weight": Trap(trap)}, gpt2 / OLD)
    with pytest.raises(
        ModelLoadError, match=r"pytorch_model\.bin is damaged, cut off, or holds more than tensors"
    ):
        load_model(gpt2)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda data: data[: len(data) // 2], "is damaged, cut off"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "is damaged, cut off"),
        (lambda _: b"", "is damaged, cut off"),
    ],
)
def test_damaged_files(gpt2, content, message):
    (gpt2 / OLD).write_bytes(content((gpt2 / OLD).read_bytes()))
    with pytest.raises(ModelLoadError, match=rf"weight file .*pytorch_model\.bin {message}"):
        load_model(gpt2)


@pytest.mark.parametrize("values", [torch.ones(3), {"step": 7}, [torch.ones(2)]])
def test_what_is_no_state_dict(gpt2, values):
    torch.save(values, gpt2 / OLD)
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin does not hold tensors by name"):
        load_model(gpt2)


def test_no_weights_at_all(gpt2):
    (gpt2 / OLD).unlink()
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is missing, and so is pytorch_model\.bin"):
        load_model(gpt2)
