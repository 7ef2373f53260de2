# SPDX-License-Identifier: BSD-3-Clause
"""Mixtral, Qwen2-MoE and Qwen3-MoE: their dense relatives with experts in the place of MLPs."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec, MoeSpec
from .base import windows
from .llama import LLAMA, NAMES, mistral, qwen2, qwen3

_MIXTRAL = "model.layers.{layer}.block_sparse_moe"
_QWEN = "model.layers.{layer}.mlp"
_MIXTRAL_NAMES = {
    **NAMES,
    "router": f"{_MIXTRAL}.gate",
    "expert_gate": f"{_MIXTRAL}.experts.{{expert}}.w1",
    "expert_up": f"{_MIXTRAL}.experts.{{expert}}.w3",
    "expert_down": f"{_MIXTRAL}.experts.{{expert}}.w2",
}
_QWEN_NAMES = {
    **NAMES,
    "router": f"{_QWEN}.gate",
    "expert_gate": f"{_QWEN}.experts.{{expert}}.gate_proj",
    "expert_up": f"{_QWEN}.experts.{{expert}}.up_proj",
    "expert_down": f"{_QWEN}.experts.{{expert}}.down_proj",
    "shared_router": f"{_QWEN}.shared_expert_gate",
    "shared_gate": f"{_QWEN}.shared_expert.gate_proj",
    "shared_up": f"{_QWEN}.shared_expert.up_proj",
    "shared_down": f"{_QWEN}.shared_expert.down_proj",
}


def mixtral(config: HFConfig) -> ModelSpec:
    spec = mistral(config.completed(rope_theta=1e6))
    moe = MoeSpec(
        num_experts=config.integer("num_experts", 8),
        num_experts_per_tok=config.integer("num_experts_per_tok", 2),
        intermediate_size=spec.intermediate_size,
        normalised=True,
    )
    return replace(spec, moe=moe)


def qwen2_moe(config: HFConfig) -> ModelSpec:
    """Where layers slide, every second one does, of those before max_window_layers."""
    sliding: tuple[int, ...] = ()
    if config.flag("use_sliding_window", False):
        last = config.integer("max_window_layers", 28)
        sliding = windows(
            config, config.integer("sliding_window"), lambda layer: layer % 2 == 0 and layer < last
        )
    moe = replace(
        _qwen_moe(config), shared_intermediate_size=config.integer("shared_expert_intermediate_size")
    )
    return replace(qwen2(config), qkv_bias=config.flag("qkv_bias", True), windows=sliding, moe=moe)


def qwen3_moe(config: HFConfig) -> ModelSpec:
    """Where layers slide, all do."""
    window = config.integer("sliding_window") if config.flag("use_sliding_window", False) else 0
    spec = qwen3(config)
    return replace(spec, windows=(window,) * spec.num_hidden_layers, moe=_qwen_moe(config))


def _qwen_moe(config: HFConfig) -> MoeSpec:
    step, dense = config.integer("decoder_sparse_step", 1), config.integers("mlp_only_layers")
    layers = range(config.integer("num_hidden_layers"))
    return MoeSpec(
        num_experts=config.integer("num_experts"),
        num_experts_per_tok=config.integer("num_experts_per_tok"),
        intermediate_size=config.integer("moe_intermediate_size"),
        normalised=config.flag("norm_topk_prob", False),
        dense_layers=frozenset(layer for layer in layers if layer in dense or (layer + 1) % step),
    )


MIXTRAL = replace(
    LLAMA, spec=mixtral, names=_MIXTRAL_NAMES, config_names={"num_local_experts": "num_experts"}
)
QWEN2_MOE = replace(LLAMA, spec=qwen2_moe, names=_QWEN_NAMES)
QWEN3_MOE = replace(QWEN2_MOE, spec=qwen3_moe, config_names={"num_local_experts": "num_experts"})
