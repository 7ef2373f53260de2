# SPDX-License-Identifier: BSD-3-Clause
"""For which models there is a plan of all layers as one kernel, and what it says."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_encoder_decoders
import torch
from driver import load_model
from fastertransformer_stacks import write, write_ia3
from sharded_driver import load_stages
from stack_steps import load_case
from tiny_checkpoints import make

from fastertransformer.layers.decoder_stack import Attending, Product
from fastertransformer.layers.ia3 import Ia3
from fastertransformer.layers.mlp import Mlp
from fastertransformer.models import Model
from fastertransformer.models.block_builder import DecoderBlock
from fastertransformer.models.decoder_stack import plan_stack

SELF = ["norm1 qkv", "self", "output"]
CROSS = ["cross_norm cross_q", "cross", "cross_output"]
PLANS = {
    "t5": [*SELF, *CROSS, "norm2 up relu", "down"],
    "t5-gated": [*SELF, *CROSS, "norm2 up gelu_tanh gated", "down"],
    "mbart": [*SELF, *CROSS, "norm2 up gelu", "down"],
    "llama": [*SELF, "norm2 up silu gated", "down"],
    "gpt2": [*SELF, "norm2 up gelu_tanh", "down"],
}
"""Steps of a layer."""


def load_tiny(name: str, folder: Path, **config: object) -> Model:
    return load_case(name, folder, "cpu", {}, **{"data_type": "bf16", **config})


def names_of(block: DecoderBlock) -> dict[int, str]:
    """By the identity of its tensors and norms."""
    linears = {"qkv": block.attention.qkv, "output": block.attention.output}
    linears |= {"up": block.mlp.up, "down": block.mlp.down}
    if block.cross_attention is not None:
        linears |= {"cross_q": block.cross_attention.q, "cross_output": block.cross_attention.output}
    weights = {id(linear.weight.tensor): name for name, linear in linears.items()}
    biases = {id(linear.bias): f"{name} bias" for name, linear in linears.items() if linear.bias is not None}
    return weights | biases | {id(norm): role for role, norm in block.norms.items()}


def told(step: Product | Attending, names: dict[int, str]) -> str:
    if isinstance(step, Attending):
        return "cross" if step.is_cross else "self"
    norm = [] if step.norm is None else [names[id(step.norm)]]
    name = names[id(step.weight)]
    assert step.bias is None or names[id(step.bias)] == f"{name} bias"
    words = (*norm, name, step.activation, "gated" if step.is_gated else "")
    return " ".join(word for word in words if word)


@pytest.mark.parametrize("name", PLANS)
def test_the_steps_are_those_of_the_layers(name, tmp_path):
    model = load_tiny(name, tmp_path)
    plan = plan_stack(model.blocks)
    assert plan is not None
    assert (plan.hidden_size, plan.shape.num_heads) == (model.spec.hidden_size, model.num_heads)
    per_layer = len(plan.steps) // len(model.blocks)
    assert per_layer == len(PLANS[name])
    for layer, block in enumerate(model.blocks):
        steps = plan.steps[layer * per_layer : (layer + 1) * per_layer]
        assert [told(step, names_of(block)) for step in steps] == PLANS[name]
        attending = [step for step in steps if isinstance(step, Attending)]
        assert [step.layer for step in attending] == [layer] * len(attending)
        assert attending[0].relative_bias is block.attention.relative_bias
        assert attending[0].rope_table is block.attention.rope_table


@pytest.mark.parametrize("name", ["t5", "mbart"])
def test_biases_are_those_of_the_checkpoint(name, tmp_path):
    plan = plan_stack(load_tiny(name, tmp_path).blocks)
    assert plan is not None
    biases = {step.bias is not None for step in plan.steps if isinstance(step, Product)}
    assert biases == {name == "mbart"}


OTHERS = "opt granite xglm bloom mpt gpt_bigcode m2m_100 pegasus umt5 mistral qwen2"


@pytest.mark.parametrize("name", OTHERS.split())
def test_others_have_a_plan_too(name, tmp_path):
    plan = plan_stack(load_tiny(name, tmp_path).blocks)
    assert plan is not None
    assert (plan.alibi_slopes is not None) == (name in ("bloom", "mpt"))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param("stablelm", {}, id="turned in part"),
        pytest.param("cohere", {}, id="attention and MLP side by side"),
        pytest.param("opt-350m", {}, id="norms behind the sums"),
        pytest.param("bart", {}, id="norms behind the sums, with an encoder"),
        pytest.param("gpt_neo", {}, id="windows of some layers"),
        pytest.param("smollm3", {}, id="turned in some layers"),
        pytest.param("mpt-clipped", {}, id="clipped"),
        pytest.param("qwen3", {}, id="norms of heads"),
        pytest.param("mixtral", {}, id="experts"),
        pytest.param("t5", {"int8_mode": 1}, id="int8"),
        pytest.param("t5", {"data_type": "fp32"}, id="float32"),
    ],
)
def test_what_the_kernel_does_not_compute_has_none(name, config, tmp_path):
    assert plan_stack(load_tiny(name, tmp_path, **config).blocks) is None


def test_layers_that_are_split_up_have_none(tmp_path):
    make("gpt2", tmp_path)
    for rank in load_stages(tmp_path, 2, 1, data_type="bf16")[0]:
        assert plan_stack(rank.blocks) is None


def test_a_stage_has_its_layers(tmp_path):
    make("gpt2", tmp_path)
    for [rank] in load_stages(tmp_path, 1, 2, data_type="bf16"):
        plan = plan_stack(rank.blocks)
        assert plan is not None
        assert [step.layer for step in plan.steps if isinstance(step, Attending)] == [0]


def test_tasks_have_none(tmp_path):
    """Of keys and values too, and of the MLP alone."""
    model = tiny_encoder_decoders.make("t5", tmp_path / "hf")
    place = write(tmp_path, model, 1, structure={"ia3_num_tasks": 2})
    write_ia3(place, model, 1, 2)
    assert plan_stack(load_model(place, data_type="bf16").blocks) is None
    plain = load_model(tmp_path / "hf", data_type="bf16").blocks
    mlp = plain[1].mlp
    ia3 = Ia3(torch.ones((2, mlp.down.weight.tensor.shape[1]), dtype=torch.bfloat16))
    with_task = replace(plain[1], mlp=Mlp(mlp.up, mlp.down, mlp.kind, mlp.is_gated, ia3))
    assert plan_stack((plain[0], with_task)) is None
    assert plan_stack(plain) is not None
