# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's own checkpoints, saved for any number of ranks, load into any number of ranks."""

import configparser
import json
import shutil
from pathlib import Path

import pytest
import torch
from driver import Driver, load_model
from fastertransformer_files import save, write
from sharded_driver import ShardedDriver, load_stages
from tiny_checkpoints import make

from fastertransformer.errors import ModelLoadError
from fastertransformer.models.checkpoint.fastertransformer import files as files_module
from fastertransformer.parallel.mesh import Mesh

IDS = [7 * i % 49 for i in range(40)]
TOLERANCE = 1e-4
POST = {"do_layer_norm_before": False}
CASES = {
    "gpt2": ("gpt2", {}, "GPT"),
    "opt": ("opt", {}, "GPT"),
    "opt-post": ("opt", POST, "GPT"),
    "bloom": ("bloom", {}, "GPT"),
    "gptj": ("gptj", {}, "GPT-J"),
    "gpt_neox": ("gpt_neox", {}, "GPT-NeoX"),
    "gpt_neox-sequential": ("gpt_neox-sequential", {"hidden_act": "gelu_fast"}, "GPT-NeoX"),
    "llama": ("llama", {"head_dim": 8}, "llama"),
    "llama-linear": ("llama-linear", {"num_key_value_heads": 6, "head_dim": 8}, "llama"),
}
"""Case of tiny_checkpoints, what is changed in it, and the old service's model_type."""


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(transformers model, folder with `1-gpu` and `2-gpu`, the old service's model_type)"""
    folder = tmp_path_factory.mktemp(request.param)
    name, changes, model_type = CASES[request.param]
    model = make(name, folder / "hf", **changes)
    for shards in (1, 2):
        write(folder, model, shards)
    return model, folder, model_type


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """`2-gpu` of a healthy llama; do not write into it."""
    folder = tmp_path_factory.mktemp("llama")
    return write(folder, make("llama", folder / "hf", head_dim=8), 2)


@pytest.fixture
def copy(llama, tmp_path):
    """The same to damage."""
    return Path(shutil.copytree(llama, tmp_path / "2-gpu"))


def expected_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


@pytest.mark.parametrize("shards", [1, 2])
def test_logits_equal_transformers_on_one_rank_and_on_two(case, shards):
    model, folder, model_type = case
    place, expected = folder / f"{shards}-gpu", expected_logits(model)
    loaded = load_model(place, model_type=model_type)
    assert (loaded.info.start_id, loaded.info.end_ids) == (1, (2,))
    assert (Driver(loaded).logits(IDS) - expected).abs().max() < TOLERANCE
    for logits in ShardedDriver(load_stages(place, 2, 2)).logits(IDS):
        assert (logits - expected).abs().max() < TOLERANCE


def test_64_greedy_tokens_equal_transformers(case):
    model, folder, _ = case
    prompt = [5, 17, 93, 4]
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, **settings)
    driver, tokens = Driver(load_model(folder / "2-gpu")), list(prompt)
    pending = tokens
    for _ in range(64):
        tokens.append(int(driver.logits(pending)[-1].argmax()))
        pending = tokens[-1:]
    assert tokens == expected[0].tolist()


def test_the_folder_around_it_is_enough(llama):
    assert torch.equal(Driver(load_model(llama.parent)).logits(IDS), Driver(load_model(llama)).logits(IDS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_hold_the_rounded_weights(dtype, tmp_path):
    model = make("gpt_neox", tmp_path / "hf")
    write(tmp_path, model, 2, dtype)
    logits = Driver(load_model(tmp_path)).logits(IDS)
    assert (logits - expected_logits(model.to(dtype).float())).abs().max() < 0.02
    assert (logits - expected_logits(model)).abs().max() < 0.02 + 1e-6


def test_a_sum_of_biases_is_enough(tmp_path):
    """The service reads the sum alone, and adds it on every rank."""
    model = make("gpt_neox", tmp_path / "hf")
    place = write(tmp_path, model, 2)
    for path in (*place.glob("*.attention.dense.bias.bin"), *place.glob("*.dense_4h_to_h.bias.bin")):
        path.unlink()
    assert (Driver(load_model(place)).logits(IDS) - expected_logits(model)).abs().max() < TOLERANCE


def test_a_sum_that_its_parts_do_not_make_is_what_counts(tmp_path):
    model = make("gpt_neox", tmp_path / "hf")
    place = write(tmp_path, model, 2)
    for path in place.glob("*.attention.dense.bias.bin"):
        path.write_bytes(bytes(path.stat().st_size))
    assert (Driver(load_model(place)).logits(IDS) - expected_logits(model)).abs().max() < TOLERANCE


def test_ranks_read_their_part_alone(llama, monkeypatch):
    """Two ranks read of the split matrices what there is, from files that were cut for two."""
    read = set()
    original = files_module.Files._map

    def spy(self, name, rank, shape):
        read.add((name, rank))
        return original(self, name, rank, shape)

    monkeypatch.setattr(files_module.Files, "_map", spy)
    load_stages(llama, 2, 1)
    both = {name for name, rank in read if rank is not None}
    assert len(both) == 2 * 5  # two layers of qkv, output, gate, up, down
    read.clear()
    load_model(llama, Mesh(2, 1, 1))
    assert {rank for _, rank in read} == {None, 1}


def test_config_json_takes_the_place_of_a_lost_config_ini(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "2-gpu", ignore=shutil.ignore_patterns("config.ini"))
    with pytest.raises(ModelLoadError, match=r"neither config\.ini nor config\.json"):
        load_model(tmp_path)
    shutil.copy(llama.parent / "hf" / "config.json", tmp_path)
    assert torch.equal(Driver(load_model(tmp_path)).logits(IDS), Driver(load_model(llama)).logits(IDS))


def test_end_ids_come_from_generation_config(copy):
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert load_model(copy).info.end_ids == (2, 7)


def test_prompts_and_smoothquant_values_are_no_left_overs(copy):
    for name in ("prompt_table.squad.weight", "layers.0.attention.dense.scale_inter"):
        save(copy / f"model.{name}.bin", torch.ones(3), torch.float32)
    save(copy / "model.layers.0.attention.dense.weight.int8.0.bin", torch.ones(3), torch.float32)
    assert load_model(copy).info.model_type == "fastertransformer-llama"


def change_ini(folder: Path, **changes: object) -> None:
    parser = configparser.ConfigParser()
    parser.read(folder / "config.ini")
    for key, value in changes.items():
        if value is None:
            parser.remove_option("llama", key)
        else:
            parser["llama"][key] = str(value)
    with (folder / "config.ini").open("w") as file:
        parser.write(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_num": None}, r"config\.ini \[llama\] has no head_num"),
        ({"num_layer": "two"}, "num_layer is 'two'; expected int"),
        ({"layernorm_eps": None}, "has no layernorm_eps"),
        ({"weight_data_type": "int8"}, "weight_data_type is 'int8'; supported are fp32, fp16, bf16"),
        ({"activation_type": "mish"}, "activation_type is 'mish'; supported are Gelu"),
        ({"num_layer": 1}, r"7 tensors .* do not belong .* model\.layers\.1\.attention\.dense\.weight"),
        (
            {"num_layer": 3},
            r"layers\.2\..*\.bin is missing; \d+ bytes are needed, \[.*\] in float32",
        ),
        (
            {"weight_data_type": "fp16"},
            r"model\.wte\.weight\.bin has 19392 bytes; 9696 bytes are needed, \[101, 48\] in float16",
        ),
        ({"inter_size": 81}, "mlp.gate_proj.weight has 81 .* cannot lie in 2 files"),
        ({"inter_size": 1}, "mlp.gate_proj.weight has 1 .* cannot lie in 2 files"),
    ],
)
def test_a_config_that_does_not_fit_is_named(copy, changes, message):
    change_ini(copy, **changes)
    with pytest.raises(ModelLoadError, match=message):
        load_model(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[whisper]\nhead_num = 2\n", r"has the sections whisper; expected one of \[gpt\], \[gptj\]"),
        (b"", "has the sections none"),
        (b"head_num = 2\n", r"config\.ini is damaged"),
        (b"\xff\xfe", r"config\.ini is damaged"),
    ],
)
def test_a_config_ini_that_is_none_is_named(copy, content, message):
    (copy / "config.ini").write_bytes(content)
    with pytest.raises(ModelLoadError, match=message):
        load_model(copy)


def test_adapters_are_known_behind_norms_in_front(tmp_path):
    model = make("gpt2", tmp_path / "hf")
    place = write(tmp_path, model, 1, has_adapters=True, layernorm_type="post_layernorm")
    with pytest.raises(ModelLoadError, match="layernorm_type is 'post_layernorm'; only 'pre_layernorm'"):
        load_model(place)


QKV = "model.layers.1.attention.query_key_value.weight.1.bin"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_shard_is_named(copy, rank):
    (copy / QKV.replace("1.bin", f"{rank}.bin")).unlink()
    with pytest.raises(ModelLoadError, match=rf"query_key_value\.weight\.{rank}\.bin is missing; 7680 bytes"):
        load_model(copy)


@pytest.mark.parametrize("change", [-1, 1, -7680])
def test_a_file_of_another_size_is_named(copy, change):
    content = (copy / QKV).read_bytes()
    (copy / QKV).write_bytes((content + b"\0")[: len(content) + change])
    with pytest.raises(ModelLoadError, match=rf"weight\.1\.bin has {7680 + change} bytes; 7680 bytes are"):
        load_model(copy)


def test_left_over_files_are_named(copy):
    save(copy / "model.layers.0.attention.dense.bias.bin", torch.ones(48), torch.float32)
    with pytest.raises(ModelLoadError, match=r"1 tensors .* model\.layers\.0\.attention\.dense\.bias"):
        load_model(copy)


def test_a_file_of_a_rank_that_there_is_not_is_named(copy):
    shutil.copy(copy / QKV, copy / QKV.replace("1.bin", "7.bin"))
    with pytest.raises(ModelLoadError, match=r": model\.\S+\.7\.bin cannot .* 9 of 10 .* beyond rank 1"):
        load_model(copy)


def test_another_type_than_the_wanted_is_refused(copy):
    with pytest.raises(ModelLoadError, match="'GPT', but the checkpoint is a 'fastertransformer-llama'"):
        load_model(copy, model_type="GPT")


class Adapter(torch.nn.Module):
    """A sublayer, and a small MLP that adds to its result."""

    def __init__(self, sublayer: torch.nn.Module, size: int) -> None:
        super().__init__()
        self.sublayer = sublayer
        self.dense_h_to_4h, self.dense_4h_to_h = torch.nn.Linear(48, size), torch.nn.Linear(size, 48)
        for parameter in (*self.dense_h_to_4h.parameters(), *self.dense_4h_to_h.parameters()):
            torch.nn.init.normal_(parameter, std=0.2)

    def forward(self, *args, **kwargs):
        found = self.sublayer(*args, **kwargs)
        output = found[0] if isinstance(found, tuple) else found
        inner = torch.nn.functional.gelu(self.dense_h_to_4h(output), approximate="tanh")
        output = output + self.dense_4h_to_h(inner)
        return (output, *found[1:]) if isinstance(found, tuple) else output

    def files(self) -> dict[str, torch.Tensor]:
        layers = ("dense_h_to_4h", "dense_4h_to_h")
        weights = {f"{name}.weight": getattr(self, name).weight.T for name in layers}
        return weights | {f"{name}.bias": getattr(self, name).bias for name in layers}


SPLIT = {"dense_h_to_4h.weight": 1, "dense_h_to_4h.bias": 0, "dense_4h_to_h.weight": 0}


@pytest.mark.parametrize("shards", [1, 2])
def test_adapters_add_to_what_is_in_front_of_them(shards, tmp_path):
    model = make("gpt2", tmp_path / "hf")
    place = write(tmp_path, model, shards, has_adapters=True, adapter_inter_size=20)
    for index, layer in enumerate(model.transformer.h):
        layer.attn, layer.mlp = Adapter(layer.attn, 20), Adapter(layer.mlp, 20)
        for name, adapter in (("after_attention_adapter", layer.attn), ("after_ffn_adapter", layer.mlp)):
            for tensor_name, tensor in adapter.files().items():
                stem, axis = f"model.layers.{index}.{name}.{tensor_name}", SPLIT.get(tensor_name)
                parts = [tensor] if axis is None else tensor.chunk(shards, axis)
                for rank, part in enumerate(parts):
                    suffix = "bin" if axis is None else f"{rank}.bin"
                    save(place / f"{stem}.{suffix}", part.detach(), torch.float32)
    expected, kept = expected_logits(model), [20, 3]
    assert (Driver(load_model(place)).logits(IDS) - expected).abs().max() < TOLERANCE
    assert (Driver(load_model(place)).logits(IDS, kept) - expected[kept]).abs().max() < TOLERANCE
    for logits in ShardedDriver(load_stages(place, 2, 2)).logits(IDS):
        assert (logits - expected).abs().max() < TOLERANCE
    for logits in ShardedDriver(load_stages(place, 2, 1)).logits(IDS, kept):
        assert (logits - expected[kept]).abs().max() < TOLERANCE
