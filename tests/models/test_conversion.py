# SPDX-License-Identifier: BSD-3-Clause
"""Hugging Face -> FasterTransformer -> Hugging Face: the same bits, the same model, or a reason why not."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from driver import Driver, load_model
from fastertransformer_files import save, write
from safetensors.torch import load_file
from sharded_driver import ShardedDriver, load_stages
from tiny_checkpoints import UNTIED, make

from fastertransformer.errors import ModelLoadError
from fastertransformer.models.conversion import convert_checkpoint
from fastertransformer.models.conversion.huggingface import HuggingFaceWriter

IDS = [7 * i % 49 for i in range(40)]
TOLERANCE = 1e-4
CASES = {
    "gpt2": ("gpt2", {}),
    "gpt2-relu-untied": ("gpt2", {"activation_function": "relu", "n_inner": 80, **UNTIED}),
    "opt": ("opt", {}),
    "opt-post": ("opt", {"do_layer_norm_before": False}),
    "opt-no-final-norm": ("opt", {"_remove_final_layer_norm": True}),
    "bloom": ("bloom", {}),
    "bloom-untied": ("bloom", UNTIED),
    "gptj": ("gptj", {}),
    "gptj-inner": ("gptj-inner", {}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox-exact-gelu": ("gpt_neox", {"hidden_act": "gelu"}),
    "gpt_neox-sequential": ("gpt_neox-sequential", {}),
    "llama": ("llama", {"head_dim": 8}),
    "llama-head-dim": ("llama", {"head_dim": 8, "num_attention_heads": 4, "hidden_size": 32}),
    "llama-linear-tied": ("llama-linear", {"head_dim": 8, "tie_word_embeddings": True}),
}


def convert(source: Path, target: Path, to: str, shards: int = 1, data_type: str = "auto"):
    return convert_checkpoint(source, target, to, shards, data_type, lambda *_: None)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(transformers model, its folder, folder with `1-gpu` and `2-gpu`)"""
    folder = tmp_path_factory.mktemp(request.param)
    name, changes = CASES[request.param]
    model = make(name, folder / "hf", **changes)
    for shards in (1, 2):
        convert(folder / "hf", folder / "own", "fastertransformer", shards)
    return model, folder / "hf", folder / "own"


@pytest.mark.parametrize("shards", [1, 2])
def test_converted_files_give_the_logits_of_transformers(case, shards):
    model, _, own = case
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0]
    place = own / f"{shards}-gpu"
    assert (Driver(load_model(place)).logits(IDS) - expected).abs().max() < TOLERANCE
    for logits in ShardedDriver(load_stages(place, 2, 1)).logits(IDS):
        assert (logits - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("shards", [1, 2])
def test_a_round_trip_gives_the_same_bits_and_the_same_model(case, shards, tmp_path):
    model, folder, own = case
    convert(own / f"{shards}-gpu", tmp_path / "back", "huggingface")
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", attn_implementation="eager"
    ).eval()
    assert type(loaded) is type(model)
    with torch.no_grad():
        assert torch.equal(loaded(torch.tensor([IDS])).logits, model(torch.tensor([IDS])).logits)
    assert loaded.config.eos_token_id == model.config.eos_token_id


BYTES = ["gpt2", "opt", "bloom", "gptj", "gpt_neox", "llama"]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", BYTES)
def test_the_files_are_those_of_the_old_converters(name, shards, tmp_path):
    model = make(name, tmp_path / "hf", **({"head_dim": 8} if name == "llama" else {}))
    old = write(tmp_path / "old", model, shards)
    new = convert(tmp_path / "hf", tmp_path / "new", "fastertransformer", shards).folder
    extra = {"model.wpe.padding.bin"} if name == "opt" else set()
    left_out = {"model.lm_head.weight.bin"} if name == "opt" else set()  # tied
    files = {path.name for path in old.glob("*.bin")}
    assert {path.name for path in new.glob("*.bin")} == (files - left_out) | extra
    assert all((old / file).read_bytes() == (new / file).read_bytes() for file in files - left_out)


@pytest.mark.parametrize("name", BYTES)
def test_what_the_old_converters_wrote_becomes_what_transformers_loads(name, tmp_path):
    model = make(name, tmp_path / "hf", **({"head_dim": 8} if name == "llama" else {}))
    write(tmp_path / "old", model, 2)
    done = convert(tmp_path / "old", tmp_path / "new", "huggingface")
    assert (done.source_type.startswith("fastertransformer-"), done.target_type) == (True, name)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "new", attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        found, expected = (each(torch.tensor([IDS])).logits for each in (loaded, model))
    assert (found - expected).abs().max() < TOLERANCE


def test_the_second_half_of_a_model_may_be_a_second_file(tmp_path, monkeypatch):
    model = make("llama", tmp_path / "hf", head_dim=8)
    convert(tmp_path / "hf", tmp_path / "own", "fastertransformer")
    monkeypatch.setattr(HuggingFaceWriter.__init__, "__defaults__", (30_000,))
    convert(tmp_path / "own", tmp_path / "back", "huggingface")
    assert len(list((tmp_path / "back").glob("model-*-of-*.safetensors"))) > 2
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager")
    found, expected = loaded.state_dict(), model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("data_type", ["fp16", "bf16"])
def test_half_precision(data_type, tmp_path):
    model = make("bloom", tmp_path / "hf")
    done = convert(tmp_path / "hf", tmp_path / "own", "fastertransformer", 2, data_type)
    assert done.data_type == data_type
    convert(tmp_path / "own", tmp_path / "back", "huggingface")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[data_type]
    found = load_file(tmp_path / "back" / "model.safetensors")
    assert all(
        torch.equal(found[name], tensor)
        for name, tensor in model.to(dtype).state_dict().items()
        if name in found
    )
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == str(dtype)[6:]


def test_tokenizer_files_go_along(tmp_path):
    make("gpt2", tmp_path / "hf")
    for name in ("tokenizer.json", "merges.txt", "generation_config.json"):
        (tmp_path / "hf" / name).write_text('{"eos_token_id": [2, 7]}')
    (tmp_path / "hf" / "notes.txt").write_text("")
    done = convert(tmp_path / "hf", tmp_path / "own", "fastertransformer")
    assert set(done.copied) == {"tokenizer.json", "merges.txt", "generation_config.json"}
    assert load_model(tmp_path / "own").info.end_ids == (2, 7)
    assert set(convert(tmp_path / "own", tmp_path / "back", "huggingface").copied) == set(done.copied)


def test_every_tensor_is_counted(tmp_path):
    model = make("gpt_neox", tmp_path / "hf")
    done = convert(tmp_path / "hf", tmp_path / "own", "fastertransformer", 2)
    assert done.num_tensors == len(model.state_dict())
    assert done.num_parameters == sum(tensor.numel() for tensor in model.state_dict().values())
    back = convert(tmp_path / "own", tmp_path / "back", "huggingface")
    assert (back.num_tensors, back.num_parameters) == (done.num_tensors, done.num_parameters)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("opt-350m", {}, r"\[gpt\] has no place for embedding_size 32"),
        ("opt-no-bias", {}, r"no place for qkv_bias False, output_bias False, mlp_bias False"),
        ("gpt2", {"activation_function": "gelu"}, r"\[gpt\]: activation_type is 'GeluErf'"),
        ("gpt_neox-no-bias", {}, "no place for qkv_bias False, output_bias False"),
        ("llama-mha-bias", {}, "no place for qkv_bias True, output_bias True, mlp_bias True"),
        ("llama-llama3", {}, "no place for rope RopeSpec"),
        ("llama-head-dim", {}, "no place for hidden_size 48"),
        ("qwen2", {}, "is a 'qwen2'; FasterTransformer's files hold gpt2, opt, bloom, gptj, gpt_neox, llama"),
    ],
)
def test_what_has_no_place_in_the_files_is_refused(name, changes, message, tmp_path):
    make(name, tmp_path / "hf", **changes)
    with pytest.raises(ModelLoadError, match=message):
        convert(tmp_path / "hf", tmp_path / "own", "fastertransformer")
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"layernorm_type": "post_layernorm"},
            "no Hugging Face family computes this; .* has no residual POST",
        ),
        ({"has_adapters": 1}, "has no residual ADAPTED, adapter AdapterSpec"),
        ({"has_positional_encoding": 0}, "no Hugging Face family .* has no positions NONE"),
    ],
)
def test_what_no_family_computes_is_refused(config, message, tmp_path):
    write(tmp_path / "own", make("gpt2", tmp_path / "hf"), 1, max_pos_seq_len=128, **config)
    with pytest.raises(ModelLoadError, match=message):
        convert(tmp_path / "own", tmp_path / "back", "huggingface")


@pytest.mark.parametrize(("heads", "shards"), [(6, 4), (6, 5)])
def test_sizes_that_do_not_divide_are_refused(heads, shards, tmp_path):
    make("gptj", tmp_path / "hf", num_attention_heads=heads)
    with pytest.raises(ModelLoadError, match=f"num_attention_heads {heads} .* tensor_para_size {shards}"):
        convert(tmp_path / "hf", tmp_path / "own", "fastertransformer", shards)


def test_a_conversion_to_what_it_is_already_is_refused(tmp_path):
    write(tmp_path / "own", make("gpt2", tmp_path / "hf"), 1)
    for source, to in (("hf", "huggingface"), ("own", "fastertransformer")):
        with pytest.raises(ModelLoadError, match=f"it needs no conversion to {to}"):
            convert(tmp_path / source, tmp_path / "new", to)


def test_nothing_is_overwritten_and_nothing_left_behind(tmp_path):
    make("gpt2", tmp_path / "hf")
    place = convert(tmp_path / "hf", tmp_path / "own", "fastertransformer").folder
    with pytest.raises(ModelLoadError, match="1-gpu exists already"):
        convert(tmp_path / "hf", tmp_path / "own", "fastertransformer")
    (place / "model.layers.1.mlp.dense_4h_to_h.weight.0.bin").unlink()
    with pytest.raises(ModelLoadError, match=r"dense_4h_to_h\.weight\.0\.bin is missing"):
        convert(tmp_path / "own", tmp_path / "back", "huggingface")
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "own"}


def test_left_over_tensors_are_refused(tmp_path):
    place = write(tmp_path / "own", make("llama", tmp_path / "hf", head_dim=8), 1)
    save(place / "model.layers.0.attention.dense.bias.bin", torch.ones(48), torch.float32)
    with pytest.raises(ModelLoadError, match=r"1 tensors .* model\.layers\.0\.attention\.dense\.bias"):
        convert(tmp_path / "own", tmp_path / "back", "huggingface")


def test_values_beyond_the_data_type_are_refused(tmp_path):
    model = make("llama", tmp_path / "hf", head_dim=8)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = 1e5
    model.save_pretrained(tmp_path / "hf")
    with pytest.raises(ModelLoadError, match=r"up\.weight of layer 1 has values .* not finite in fp16"):
        convert(tmp_path / "hf", tmp_path / "own", "fastertransformer", data_type="fp16")
