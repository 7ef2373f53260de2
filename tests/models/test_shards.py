# SPDX-License-Identifier: BSD-3-Clause
"""Tensor-parallel shards and pipeline stages compute what the whole model computes."""

import re

import pytest
import torch
from driver import Driver, load_model
from sharded_driver import ShardedDriver, load_stages
from tiny_checkpoints import CASES, make

from fastertransformer.errors import ModelLoadError
from fastertransformer.models.checkpoint.huggingface import HuggingFaceCheckpoint
from fastertransformer.parallel.mesh import Mesh

IDS = [7 * i % 49 for i in range(57)]
TOLERANCE = 5e-5
FUSED_NAMES = re.compile(r"c_attn|query_key_value|Wqkv|qkv_proj|gate_up_proj")
# 101 words divide by no number of ranks; 2 key-value heads are repeated on 4 and on 8 ranks.
EIGHT_HEADS = {
    "llama": {"num_attention_heads": 8},
    "qwen3": {"num_attention_heads": 8, "head_dim": 16},
    "falcon-groups": {"num_attention_heads": 8},
}


def check(folder: object, tp_size: int, pp_size: int) -> None:
    expected = Driver(load_model(folder)).chunked_logits(IDS, 19)
    found = ShardedDriver(load_stages(folder, tp_size, pp_size)).chunked_logits(IDS, 19)
    assert all(torch.equal(logits, found[0]) for logits in found), "ranks must draw the same token"
    assert found[0].shape == expected.shape
    assert found[0].is_contiguous()
    assert (found[0] - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_in_two_stages(name, tmp_path):
    make(name, tmp_path)
    check(tmp_path, 2, 2)


@pytest.mark.parametrize("name", ["llama", "opt-350m", "gpt_neox", "gptj", "gemma2", "mixtral"])
@pytest.mark.parametrize("pp_size", [1, 2])
def test_ranks_of_the_last_stage_keep_the_same_tokens(name, pp_size, tmp_path):
    """Behind a chunk of which they keep none, and in which nobody may wait for the others."""
    make(name, tmp_path)
    expected, kept = Driver(load_model(tmp_path)).logits(IDS)[30:], [26, 1, 7]
    ranks = ShardedDriver(load_stages(tmp_path, 2, pp_size))
    assert [len(left) for left in ranks.logits(IDS[:30], [])] == [0, 0]
    found = ranks.logits(IDS[30:], kept)
    assert torch.equal(*found)
    assert (found[0] - expected[kept]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", EIGHT_HEADS)
@pytest.mark.parametrize("tp_size", [4, 8])
def test_more_ranks_than_key_value_heads(name, tp_size, tmp_path):
    make(name, tmp_path, **EIGHT_HEADS[name])
    check(tmp_path, tp_size, 1)


def test_ranks_without_a_row_of_the_vocabulary(tmp_path):
    """49 words on 8 ranks are 7 for each of the first 7 and none for the last."""
    make("llama", tmp_path, num_attention_heads=8, vocab_size=49, tie_word_embeddings=True)
    check(tmp_path, 8, 1)


@pytest.mark.parametrize(
    "name", ["llama", "llama-mqa-tied", "gpt2", "opt-350m", "bloom", "gemma2", "mixtral"]
)
def test_stages_of_unequal_length(name, tmp_path):
    make(name, tmp_path, num_hidden_layers=3)
    check(tmp_path, 1, 2)


def test_ranks_share_the_weights_and_the_cache(tmp_path):
    make("llama", tmp_path)
    whole = load_model(tmp_path)
    ranks = [model for stage in load_stages(tmp_path, 2, 2) for model in stage]
    assert max(model.weight_bytes for model in ranks) < 0.3 * whole.weight_bytes
    assert whole.kv_cache_shape(5, 4) == (2, 2, 5, 2, 4, 8)
    assert ranks[0].kv_cache_shape(5, 4) == (1, 2, 5, 1, 4, 8)


FUSED = ["gpt2", "gpt_neox", "bloom", "falcon", "falcon-groups", "gpt_bigcode", "codegen", "phi3", "mpt"]


@pytest.mark.parametrize("name", FUSED)
def test_ranks_read_their_rows_of_fused_tensors_alone(name, tmp_path, monkeypatch):
    """What two ranks read of q, k, v, gate and up is what there is; one key-value head is read by both."""
    reference = make(name, tmp_path)
    read = 0
    original = HuggingFaceCheckpoint.slice

    def count(self: HuggingFaceCheckpoint, tensor: str, *args: object) -> torch.Tensor:
        nonlocal read
        found = original(self, tensor, *args)
        read += found.numel() if FUSED_NAMES.search(tensor) else 0
        return found

    monkeypatch.setattr(HuggingFaceCheckpoint, "slice", count)
    load_stages(tmp_path, 2, 1)
    sizes = [value.numel() for key, value in reference.state_dict().items() if FUSED_NAMES.search(key)]
    shared = 2 * 2 * 8 * 48 if name in ("falcon", "gpt_bigcode") else 0
    shared += 2 * 2 * 8 if name == "gpt_bigcode" else 0  # biases
    assert read == sum(sizes) + shared


@pytest.mark.parametrize(
    ("changes", "mesh", "message"),
    [
        ({}, Mesh(4), "num_attention_heads 6 .* tensor_para_size 4"),
        ({"intermediate_size": 81}, Mesh(2), "intermediate_size 81 .* tensor_para_size 2"),
        ({"num_key_value_heads": 3}, Mesh(2), "num_key_value_heads 3 .* tensor_para_size 2"),
        ({}, Mesh(1, 3), "num_hidden_layers 2 .* pipeline_para_size 3"),
        ({"moe_intermediate_size": 23}, Mesh(2), "intermediate size of an expert 23 .* tensor_para_size 2"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_its_numbers(changes, mesh, message, tmp_path):
    make("qwen3_moe" if "moe_intermediate_size" in changes else "llama", tmp_path, **changes)
    with pytest.raises(ModelLoadError, match=message):
        load_model(tmp_path, mesh)
