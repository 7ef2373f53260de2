# SPDX-License-Identifier: BSD-3-Clause
"""GGUF files: written here from Hugging Face models in llama.cpp's names and layout, and a real one."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import smollm2
import torch
import transformers
from driver import Driver, load_model
from sharded_driver import ShardedDriver, load_stages
from tiny_checkpoints import make

from fastertransformer.errors import ModelLoadError

IDS = list(range(3, 30))
TOLERANCE = 1e-4
Q = gguf.GGMLQuantizationType
SIZES = ({"hidden_size": 96, "intermediate_size": 192, "head_dim": 16}, {"n_embd": 128})
"""Of llama and its aliases, of gpt2: rows of quantised tensors are whole blocks of 32, on two ranks too."""
PARIS = 7042
Convert = Callable[[np.ndarray], tuple[np.ndarray, gguf.GGMLQuantizationType]]
GPT2_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def pair_rows(rows: np.ndarray, head_dim: int = 16) -> np.ndarray:
    """llama.cpp's order of query and key rows: the halves of a head interleaved."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama_layout(name: str, array: np.ndarray) -> np.ndarray:
    return pair_rows(array) if "q_proj" in name or "k_proj" in name else array


def gpt2_layout(name: str, array: np.ndarray) -> np.ndarray:
    return array.T if name.endswith(GPT2_TRANSPOSED) else array


def same_layout(_: str, array: np.ndarray) -> np.ndarray:
    return array


LAYOUTS = {"llama": llama_layout, "gpt2": gpt2_layout, "qwen2": same_layout, "qwen3": same_layout}


def write_gguf(
    path: Path, model: torch.nn.Module, convert: Convert, rope_factors: np.ndarray | None = None
) -> None:
    """Saves a transformers model as llama.cpp's converter does."""
    architecture = model.config.model_type
    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[architecture], 2)
    layout = LAYOUTS[architecture]
    writer = gguf.GGUFWriter(path, architecture)
    write_sizes(writer, model.config)
    for name, parameter in model.named_parameters():
        array = np.ascontiguousarray(layout(name, parameter.detach().numpy()))
        data, kind = convert(array) if array.ndim == 2 else (array, Q.F32)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), data, raw_dtype=kind)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_sizes(writer: gguf.GGUFWriter, config: transformers.PretrainedConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(16)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def reference_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


def exact(array: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    return array, Q.F32


def quantised(kind: gguf.GGMLQuantizationType) -> Convert:
    return lambda array: (gguf.quantize(array, kind), kind)


def rounded(kind: gguf.GGMLQuantizationType) -> Convert:
    """The values that quantising leaves, stored exactly."""
    return lambda array: (gguf.dequantize(gguf.quantize(array, kind), kind), Q.F32)


@pytest.mark.parametrize("name", ["llama", "llama-mqa-tied", "qwen2", "qwen3", "gpt2"])
def test_logits_equal_transformers(name, tmp_path):
    model = make(name, tmp_path, **SIZES[name == "gpt2"])
    write_gguf(tmp_path / "model.gguf", model, exact)
    loaded = load_model(tmp_path / "model.gguf")
    assert (loaded.info.start_id, loaded.info.end_ids) == (1, (2,))
    assert (Driver(loaded).logits(IDS) - reference_logits(model)).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", [Q.Q8_0, Q.Q4_1, Q.Q4_0, Q.F16, Q.BF16])
def test_quantised_tensors_have_the_values_that_quantising_leaves(name, kind, tmp_path):
    model = make(name, tmp_path, **SIZES[name == "gpt2"])
    write_gguf(tmp_path / "quantised.gguf", model, quantised(kind))
    write_gguf(tmp_path / "rounded.gguf", model, rounded(kind))
    found, expected = (
        Driver(load_model(tmp_path / f"{file}.gguf")).logits(IDS) for file in ("quantised", "rounded")
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_ranks_read_their_part_of_quantised_tensors(name, tmp_path):
    write_gguf(tmp_path / "model.gguf", make(name, tmp_path, **SIZES[name == "gpt2"]), quantised(Q.Q4_1))
    expected = Driver(load_model(tmp_path / "model.gguf")).logits(IDS)
    for logits in ShardedDriver(load_stages(tmp_path / "model.gguf", 2, 2)).logits(IDS):
        assert (logits - expected).abs().max() < TOLERANCE


def test_llama3_frequencies_come_as_a_tensor(tmp_path):
    model = make("llama-llama3", tmp_path, **SIZES[False])
    plain = 1 / 10_000.0 ** (torch.arange(0, 16, 2) / 16)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy()
    write_gguf(tmp_path / "model.gguf", model, exact, factors)
    logits = Driver(load_model(tmp_path / "model.gguf")).logits(IDS)
    assert factors.max() > 7
    assert (logits - reference_logits(model)).abs().max() < TOLERANCE


def test_a_folder_with_one_gguf_is_enough(tmp_path):
    write_gguf(tmp_path / "model.gguf", make("llama", tmp_path / "hf", **SIZES[False]), exact)
    assert load_model(tmp_path).info.model_type == "llama"
    (tmp_path / "second.gguf").write_bytes((tmp_path / "model.gguf").read_bytes())
    with pytest.raises(ModelLoadError, match=r"not exactly one \.gguf file"):
        load_model(tmp_path)


def test_smollm2_equals_transformers():
    """A real prompt has a real answer."""
    loaded, the_capital_of_france_is = load_model(smollm2.gguf_file()), [504, 3575, 282, 4649, 314]
    logits = Driver(loaded).logits(the_capital_of_france_is)
    with torch.no_grad():
        expected = smollm2.reference()(torch.tensor([the_capital_of_france_is])).logits[0]
    assert (logits - expected).abs().max() < 1e-3
    assert logits[-1].argmax() == PARIS


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_cut_off_file_is_named(part, tmp_path):
    write_gguf(tmp_path / "model.gguf", make("llama", tmp_path / "hf", **SIZES[False]), exact)
    content = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ModelLoadError, match=r"model\.gguf is damaged, cut off or no GGUF file"):
        load_model(tmp_path / "model.gguf")


def test_an_empty_llama_is_told_what_it_lacks(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match=r"model\.gguf has no"):
        load_model(tmp_path / "model.gguf")


def test_another_architecture_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "bloom")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match="holds a bloom; supported in GGUF are llama, qwen2"):
        load_model(tmp_path / "model.gguf")
