# SPDX-License-Identifier: BSD-3-Clause
"""What config.json and tensors are called elsewhere means the same; what is not supported is refused."""

import pytest
import torch
from driver import Driver, load_model
from safetensors.torch import load_file, save_file
from tiny_checkpoints import FAR, LONG, change_config, make

from fastertransformer.errors import ModelLoadError

IDS = list(range(3, 30))
WEIGHTS = "model.safetensors"
BARE = {"transformer.": ""}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gpt2", "GPT"),
        ("opt", "GPT"),
        ("bloom", "gpt"),
        ("xglm", "GPT"),
        ("gptj", "GPT-J"),
        ("gpt_neox", "GPT-NeoX"),
        ("mistral", "llama"),
    ],
)
def test_names_of_the_old_service(name, wanted, tmp_path):
    make(name, tmp_path)
    assert load_model(tmp_path, model_type=wanted).info.model_type == name


@pytest.mark.parametrize(
    ("name", "config", "names"),
    [
        pytest.param("bloom", {"hidden_size": None, "n_embed": 48}, BARE, id="bloom"),
        pytest.param("gptj", {"tie_word_embeddings": None}, BARE, id="gptj"),
        pytest.param("opt", {}, {"model.decoder.": "decoder."}, id="opt"),
        pytest.param(
            "gpt_neox-sequential",
            {"rope_parameters": None, "rotary_pct": 0.5, "rotary_emb_base": 10_000},
            {},
            id="gpt_neox",
        ),
        pytest.param(
            "phi3-long",
            {"rope_parameters": None, "rope_theta": 10_000.0, "rope_scaling": {**LONG, "rope_type": "su"}},
            {},
            id="phi3",
        ),
        pytest.param(
            "gemma3_text",
            {
                "rope_parameters": None,
                "rope_theta": FAR["rope_theta"],
                "rope_scaling": {"type": "linear", "factor": FAR["factor"]},
                "rope_local_base_freq": 10_000.0,
            },
            {},
            id="gemma3_text",
        ),
        pytest.param("gemma2", {"layer_types": None}, {}, id="gemma2"),
        pytest.param("cohere2", {"layer_types": None, "sliding_window_pattern": 2}, {}, id="cohere2"),
        pytest.param("smollm3-window", {"no_rope_layers": None, "layer_types": None}, {}, id="smollm3"),
        pytest.param("qwen2_moe-window", {"layer_types": None}, {}, id="qwen2_moe"),
        pytest.param("qwen3_moe", {"num_local_experts": None, "num_experts": 5}, {}, id="qwen3_moe"),
    ],
)
def test_other_spellings_mean_the_same(name, config, names, tmp_path):
    make(name, tmp_path)
    expected = Driver(load_model(tmp_path)).logits(IDS)
    change_config(tmp_path, **config)
    tensors = load_file(tmp_path / WEIGHTS)
    for new, old in names.items():
        tensors = {tensor.replace(new, old, 1): value for tensor, value in tensors.items()}
    save_file(tensors, tmp_path / WEIGHTS)
    assert torch.equal(Driver(load_model(tmp_path)).logits(IDS), expected)


def test_short_contexts_have_short_factors(tmp_path):
    """A model that is loaded for no more than its original context has the angles of that."""
    reference = make("phi3-long", tmp_path, original_max_position_embeddings=64)
    with torch.no_grad():
        expected = reference(torch.tensor([IDS])).logits[0]
    short, long = (Driver(load_model(tmp_path, max_model_len=length)).logits(IDS) for length in (64, 128))
    assert (short - expected).abs().max() < 1e-4
    assert (long - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True; only False"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "is True; only False"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm is True; only False"),
        ("granite", {"logits_scaling": 0.0}, "logits_scaling is 0.0; allowed is > 0"),
        ("gpt_neo", {"attention_layers": ["local"]}, "layer_types names 1 layers, num_hidden_layers is 2"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers names 1 layers, num_hidden_layers is 2"),
        ("mpt", {"attn_config": {"alibi": False}}, r"\(attn_config\): alibi is False; only True"),
        ("mpt", {"attn_config": {"qk_ln": True}}, "qk_ln is True; only False"),
        ("mpt", {"no_bias": False}, "no_bias is False; only True"),
        ("mpt", {"logit_scale": 0.5}, "logit_scale is 0.5; only None"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm is True; only False"),
        ("gemma", {"use_bidirectional_attention": True}, "is True; only False"),
        ("xglm", {"add_cross_attention": True}, "is True; only False"),
    ],
)
def test_options_without_support_are_refused(name, changes, message, tmp_path):
    make(name, tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ModelLoadError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_missing_expert_is_named(name, tmp_path):
    make(name, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    missing = next(tensor for tensor in tensors if "layers.1" in tensor and "experts.3" in tensor)
    save_file({key: value for key, value in tensors.items() if key != missing}, tmp_path / WEIGHTS)
    with pytest.raises(ModelLoadError, match=f"no tensor {missing}"):
        load_model(tmp_path)


@pytest.mark.parametrize(("name", "is_capturable"), [("mixtral", False), ("gemma2", True)])
def test_graphs_hold_what_asks_the_device_nothing(name, is_capturable, tmp_path):
    make(name, tmp_path)
    assert load_model(tmp_path).is_capturable is is_capturable
