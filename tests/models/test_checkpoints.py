# SPDX-License-Identifier: BSD-3-Clause
"""Hugging Face folders in the shapes they come in, and every defect of one named in the error."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from driver import Driver, load_model
from safetensors.torch import load_file, save_file
from tiny_checkpoints import change_config, make

from fastertransformer.errors import ModelLoadError

IDS = list(range(3, 30))
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Folder of a healthy llama; do not write into it."""
    folder = tmp_path_factory.mktemp("llama")
    make("llama", folder)
    return folder


@pytest.fixture
def copy(llama, tmp_path):
    """A llama folder to damage."""
    return Path(shutil.copytree(llama, tmp_path / "checkpoint"))


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Sets tensors; None removes one."""
    tensors = load_file(folder / WEIGHTS) | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


def test_many_files_hold_the_same_model(llama, tmp_path):
    make("llama", tmp_path, max_shard_size="20KB")
    assert (tmp_path / INDEX).exists()
    assert torch.equal(Driver(load_model(tmp_path)).logits(IDS), Driver(load_model(llama)).logits(IDS))


def test_gpt2_as_published(tmp_path):
    """Names without `transformer.`, mask buffers among the weights, the tied head stored once more."""
    reference = make("gpt2", tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    buffers = {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    save_file({**bare, **buffers, "lm_head.weight": bare["wte.weight"].clone()}, tmp_path / WEIGHTS)
    with torch.no_grad():
        expected = reference(torch.tensor([IDS])).logits[0]
    assert (Driver(load_model(tmp_path, model_type="GPT")).logits(IDS) - expected).abs().max() < 1e-4


def test_old_rope_keys_mean_the_same(tmp_path):
    """`rope_theta` and `rope_scaling` of transformers 4 beside `rope_parameters` of 5."""
    make("llama-linear", tmp_path / "new")
    old = Path(shutil.copytree(tmp_path / "new", tmp_path / "old"))
    change_config(
        old, rope_parameters=None, rope_theta=10_000.0, rope_scaling={"type": "linear", "factor": 4.0}
    )
    new_logits, old_logits = (Driver(load_model(tmp_path / name)).logits(IDS) for name in ("new", "old"))
    assert torch.equal(new_logits, old_logits)


def test_layer_types_decide_which_layers_slide(tmp_path):
    kinds = ["sliding_attention", "full_attention"]
    reference = make("qwen2-window", tmp_path, layer_types=kinds)
    with torch.no_grad():
        expected = reference(torch.tensor([IDS])).logits[0]
    assert (Driver(load_model(tmp_path)).logits(IDS) - expected).abs().max() < 1e-4


def test_the_model_does_not_need_its_file_any_more(copy):
    """Weights that stayed views of the mapped file would change with it."""
    model = load_model(copy)
    expected = Driver(model).logits(IDS)
    with (copy / WEIGHTS).open("r+b") as file:
        file.write(bytes((copy / WEIGHTS).stat().st_size))
    assert torch.equal(Driver(model).logits(IDS), expected)


def test_progress_ends_with_all_tensors(llama):
    seen: list[tuple[int, int]] = []
    load_model(llama, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == len(load_file(llama / WEIGHTS))


@pytest.mark.parametrize(
    ("generation", "start_id", "end_ids"),
    [
        ({}, 1, (2,)),
        ({"eos_token_id": [2, 7]}, 1, (2, 7)),
        ({"eos_token_id": 5}, 1, (5,)),
        ({"bos_token_id": 3}, 3, (2,)),
    ],
)
def test_generation_config_decides_where_outputs_begin_and_end(copy, generation, start_id, end_ids):
    (copy / "generation_config.json").write_text(json.dumps(generation))
    info = load_model(copy).info
    assert (info.model_type, info.vocab_size, info.max_position_embeddings) == ("llama", 101, 128)
    assert (info.start_id, info.end_ids) == (start_id, end_ids)


@pytest.mark.parametrize("wanted", ["", "llama", "Llama"])
def test_the_wanted_type_may_be_the_found_one(llama, wanted):
    assert load_model(llama, model_type=wanted).info.model_type == "llama"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("GPT", "model_type is 'GPT', but the checkpoint is a 'llama'"),
        ("qwen2", "model_type is 'qwen2', but the checkpoint is a 'llama'"),
        ("T5", "model_type is 'T5', but the checkpoint is a 'llama'"),
        (
            "whisper",
            "model_type is 'whisper'; supported are bart, bert, .*gpt, gpt-j, .*llama, .*xlm-roberta",
        ),
    ],
)
def test_another_type_than_the_wanted_is_refused(llama, wanted, message):
    with pytest.raises(ModelLoadError, match=message):
        load_model(llama, model_type=wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "rwkv"}, "is a 'rwkv'; supported are .*bloom, .*gpt, gpt-j, .*llama"),
        ({"model_type": None}, "config.json has no model_type"),
        ({"hidden_size": None}, "config.json has no hidden_size"),
        ({"hidden_size": "48"}, "hidden_size is '48'; expected int"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; expected a positive integer"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; expected bool"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; supported are silu"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "'dynamic' is not supported; supported are default"),
        ({"rope_parameters": {"rope_type": "linear"}}, r"\(rope_parameters\) has no factor"),
        ({"num_hidden_layers": 3}, r"no tensor model\.layers\.2\."),
        ({"num_hidden_layers": 1}, "9 tensors .* do not belong .* model.layers.1.input_layernorm.weight"),
        ({"num_key_value_heads": 3}, r"k_proj.weight has shape \[16, 48\]; expected \[24, 48\]"),
    ],
)
def test_a_config_that_does_not_fit_is_named(copy, changes, message):
    change_config(copy, **changes)
    with pytest.raises(ModelLoadError, match=message):
        load_model(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "no tensor model.layers.1.mlp.up_proj.weight"),
        ({"model.norm.weight": torch.ones(47)}, r"model.norm.weight has shape \[47\]; expected \[48\]"),
        (
            {"model.norm.weight": torch.ones(48, dtype=torch.int8)},
            "model.norm.weight is stored as torch.int8",
        ),
        (
            {"model.layers.0.self_attn.q_proj.bias": torch.ones(48)},
            "1 tensors of the checkpoint do not belong .*q_proj.bias",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(copy, changes, message):
    change_tensors(copy, **changes)
    with pytest.raises(ModelLoadError, match=message):
        load_model(copy)


@pytest.mark.parametrize("size", [0, 4, 100, -10])
def test_a_cut_off_file_is_named(copy, size):
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[:size])
    with pytest.raises(ModelLoadError, match=f"{WEIGHTS} is damaged or cut off"):
        load_model(copy)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_a_config_that_is_no_json_object_is_named(copy, content):
    (copy / CONFIG).write_bytes(content)
    with pytest.raises(ModelLoadError, match=CONFIG):
        load_model(copy)


def test_a_missing_file_is_named(tmp_path):
    make("llama", tmp_path, max_shard_size="20KB")
    sorted(tmp_path.glob("*.safetensors"))[3].unlink()
    with pytest.raises(ModelLoadError, match=r"model-00004-of-.* is missing"):
        load_model(tmp_path)


def test_an_index_that_names_no_files_is_refused(copy):
    (copy / INDEX).write_text('{"weight_map": {"lm_head.weight": 3}}')
    with pytest.raises(ModelLoadError, match=r"lm_head\.weight is 3; expected str"):
        load_model(copy)


def test_no_checkpoint_at_all_is_told(tmp_path):
    with pytest.raises(ModelLoadError, match="nowhere does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match=r"has no config\.json"):
        load_model(tmp_path)
