# SPDX-License-Identifier: BSD-3-Clause
"""Sentence embeddings by modules.json, and checkpoints of encoders as they are found in the wild."""

import json
from pathlib import Path

import pytest
import torch
from driver import load_model
from encoder_checkpoints import make
from encoder_driver import encode
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear, normalize

from fastertransformer.errors import ModelLoadError

INPUTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16]]
TYPES = "sentence_transformers.models."


def write_modules(folder: Path, modules: list[str]) -> None:
    entries = [
        {"idx": index, "name": str(index), "path": f"{index}_{name}" if index else "", "type": TYPES + name}
        for index, name in enumerate(["Transformer", *modules])
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


def write_pooling(folder: Path, *pools: str) -> None:
    place = folder / "1_Pooling"
    place.mkdir()
    known = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken", *pools)
    flags = {f"pooling_mode_{pool}": pool in pools for pool in known}
    (place / "config.json").write_text(json.dumps({"word_embedding_dimension": 48, **flags}))


def embeddings(folder: Path) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What we make of the inputs, and the tokens that it is made of."""
    found = encode([load_model(folder)], INPUTS, ["embedding", "last_hidden_state"])
    return found["embedding"], list(found["last_hidden_state"].split([len(ids) for ids in INPUTS]))


POOLS = {
    "cls_token": lambda x: x[0],
    "max_tokens": lambda x: x.max(0).values,
    "mean_tokens": lambda x: x.mean(0),
    "mean_sqrt_len_tokens": lambda x: x.sum(0) / len(x) ** 0.5,
    "lasttoken": lambda x: x[-1],
}


@pytest.mark.parametrize("pool", POOLS)
def test_pooling(tmp_path, pool):
    make("bert", tmp_path)
    write_modules(tmp_path, ["Pooling"])
    write_pooling(tmp_path, pool)
    found, tokens = embeddings(tmp_path)
    torch.testing.assert_close(found, torch.stack([POOLS[pool](x) for x in tokens]))
    assert load_model(tmp_path).needs_first_tokens(["embedding"]) is (pool == "cls_token")


def test_without_modules_it_is_the_mean(tmp_path):
    make("bert", tmp_path)
    found, tokens = embeddings(tmp_path)
    torch.testing.assert_close(found, torch.stack([x.mean(0) for x in tokens]))


def test_two_pools_a_dense_layer_and_length_one(tmp_path):
    make("bert", tmp_path)
    write_modules(tmp_path, ["Pooling", "Dense", "Normalize"])
    write_pooling(tmp_path, "cls_token", "mean_tokens")
    weight, bias = torch.randn(20, 96), torch.randn(20)
    (tmp_path / "2_Dense").mkdir()
    save_file({"linear.weight": weight, "linear.bias": bias}, tmp_path / "2_Dense" / "model.safetensors")
    settings = {"in_features": 96, "out_features": 20, "bias": True}
    settings["activation_function"] = "torch.nn.modules.activation.Tanh"
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(settings))
    found, tokens = embeddings(tmp_path)
    pooled = torch.stack([torch.cat((x[0], x.mean(0))) for x in tokens])
    torch.testing.assert_close(found, normalize(linear(pooled, weight, bias).tanh(), dim=1))


def test_what_is_not_supported_is_named(tmp_path):
    make("bert", tmp_path)
    write_modules(tmp_path, ["Pooling", "WordWeights"])
    write_pooling(tmp_path, "cls_token")
    with pytest.raises(ModelLoadError, match="module WordWeights is not supported"):
        load_model(tmp_path)
    write_modules(tmp_path, ["Pooling"])
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(ModelLoadError, match="pooling_mode_weightedmean_tokens is not supported"):
        load_model(tmp_path)


def test_a_dense_layer_that_is_none_is_named(tmp_path):
    make("bert", tmp_path)
    write_modules(tmp_path, ["Pooling", "Dense"])
    write_pooling(tmp_path, "cls_token")
    place = tmp_path / "2_Dense"
    place.mkdir()
    (place / "config.json").write_text('{"out_features": 20}')
    with pytest.raises(ModelLoadError, match=r"2_Dense/model\.safetensors is missing"):
        load_model(tmp_path)
    torch.save({"weight": torch.ones(20, 48)}, place / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin has no linear\.weight, only weight"):
        load_model(tmp_path)
    save_file({"weight": torch.ones(20, 48)}, place / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"model\.safetensors has no linear\.weight, only weight"):
        load_model(tmp_path)
    save_file({"linear.weight": torch.ones(20, 47)}, place / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"has shape \[20, 47\]; expected \[20, 48\]"):
        load_model(tmp_path)
    (place / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelLoadError, match=r"2_Dense/model\.safetensors is damaged"):
        load_model(tmp_path)


def rename(folder: Path, old: str, new: str) -> None:
    file = folder / "model.safetensors"
    tensors = {name.replace(old, new): tensor.clone() for name, tensor in load_file(file).items()}
    save_file(tensors, file)


@pytest.mark.parametrize("case", ["bert-pretraining", "deberta-masked"])
def test_norms_with_tensorflows_names(tmp_path, case):
    make(case, tmp_path)
    before = encode([load_model(tmp_path)], INPUTS, ["vocabulary_logits"])
    rename(tmp_path, "LayerNorm.weight", "LayerNorm.gamma")
    rename(tmp_path, "LayerNorm.bias", "LayerNorm.beta")
    after = encode([load_model(tmp_path)], INPUTS, ["vocabulary_logits"])
    assert torch.equal(before["vocabulary_logits"], after["vocabulary_logits"])


def test_the_encoder_of_a_whole_t5(tmp_path):
    """The decoder beside it is left alone."""
    from tiny_encoder_decoders import make as make_whole

    reference = make_whole("t5", tmp_path)
    found = encode([load_model(tmp_path, model_type="T5-Encoder")], INPUTS[2:], ["last_hidden_state"])
    with torch.no_grad():
        expected = reference.encoder(torch.tensor(INPUTS[2:])).last_hidden_state[0]
    assert (found["last_hidden_state"] - expected).abs().max() < 1e-4


def test_a_weight_that_belongs_to_no_head_is_refused(tmp_path):
    make("bert", tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "bert.extra.weight": torch.ones(3)}, file)
    with pytest.raises(ModelLoadError, match=r"do not belong to this architecture: bert\.extra\.weight"):
        load_model(tmp_path)


@pytest.mark.parametrize("case", ["bert", "deberta", "t5"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_stays_close(tmp_path, case, dtype, tolerance):
    make(case, tmp_path)
    wanted = encode([load_model(tmp_path)], INPUTS, ["last_hidden_state"])["last_hidden_state"]
    found = encode([load_model(tmp_path, data_type=dtype)], INPUTS, ["last_hidden_state"])
    assert (found["last_hidden_state"] - wanted).norm() < tolerance * wanted.norm()
