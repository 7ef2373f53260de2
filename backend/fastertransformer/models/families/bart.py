# SPDX-License-Identifier: BSD-3-Clause
"""BART and its relatives mBART, M2M100 (NLLB), Marian and Pegasus: they differ in positions and norms."""

from dataclasses import replace
from typing import Any

from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Positions, Residual
from .base import Family, activation, decoder


def _stack(stack: str) -> dict[str, str | tuple[str, ...]]:
    layer = f"model.{stack}.layers.{{layer}}"
    return {
        "embedding": ("model.shared", f"model.{stack}.embed_tokens"),
        "positions": f"model.{stack}.embed_positions",
        "embedding_norm": f"model.{stack}.layernorm_embedding",
        "final_norm": f"model.{stack}.layer_norm",
        "norm1": f"{layer}.self_attn_layer_norm",
        "q": f"{layer}.self_attn.q_proj",
        "k": f"{layer}.self_attn.k_proj",
        "v": f"{layer}.self_attn.v_proj",
        "output": f"{layer}.self_attn.out_proj",
        "norm2": f"{layer}.final_layer_norm",
        "up": f"{layer}.fc1",
        "down": f"{layer}.fc2",
    }


_LAYER = "model.decoder.layers.{layer}"
NAMES = {
    **_stack("decoder"),
    "head": "lm_head",
    "cross_norm": f"{_LAYER}.encoder_attn_layer_norm",
    "cross_q": f"{_LAYER}.encoder_attn.q_proj",
    "cross_k": f"{_LAYER}.encoder_attn.k_proj",
    "cross_v": f"{_LAYER}.encoder_attn.v_proj",
    "cross_output": f"{_LAYER}.encoder_attn.out_proj",
}
NAMES_WITH_BIAS = {**NAMES, "logits_bias": "final_logits_bias"}


def _both(config: HFConfig, **fields: Any) -> ModelSpec:
    """Decoder and encoder with the same `fields`."""
    hidden_size = config.integer("hidden_size")
    common: dict[str, Any] = {
        "norm": Norm.LAYER,
        "norm_eps": 1e-5,
        "activation": activation(config, "activation_function", "gelu"),
        "embedding_scale": hidden_size**0.5 if config.flag("scale_embedding", False) else 1.0,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": config.flag("tie_word_embeddings", True),
        **fields,
    }
    vocab_size = config.integer("vocab_size")
    return _part(
        config,
        "decoder",
        **common,
        vocab_size=config.integer("decoder_vocab_size", vocab_size),
        encoder=_part(config, "encoder", **common | {"head_bias": False}),
    )


def _part(config: HFConfig, stack: str, **fields: Any) -> ModelSpec:
    return decoder(
        config,
        num_hidden_layers=config.integer(f"{stack}_layers"),
        num_attention_heads=config.integer(f"{stack}_attention_heads"),
        intermediate_size=config.integer(f"{stack}_ffn_dim"),
        **fields,
    )


def bart(config: HFConfig) -> ModelSpec:
    """Learned positions behind two rows that are not used; norms behind the sums."""
    return _both(
        config,
        positions=Positions.LEARNED,
        position_offset=2,
        embedding_norm=True,
        residual=Residual.POST,
        final_norm=False,
        head_bias=True,
    )


def mbart(config: HFConfig) -> ModelSpec:
    return _both(config, positions=Positions.LEARNED, position_offset=2, embedding_norm=True, head_bias=True)


def m2m_100(config: HFConfig) -> ModelSpec:
    """Positions count from behind the padding id, which is always 1."""
    config.only("pad_token_id", 1)
    config = config.completed(scale_embedding=True, activation_function="relu")
    return _both(config, positions=Positions.SINUSOIDAL, position_offset=2)


def marian(config: HFConfig) -> ModelSpec:
    return _both(
        config,
        positions=Positions.SINUSOIDAL_PAPER,
        residual=Residual.POST,
        final_norm=False,
        head_bias=True,
    )


def pegasus(config: HFConfig) -> ModelSpec:
    return _both(config, positions=Positions.SINUSOIDAL_PAPER, head_bias=True)


BART = Family(
    bart,
    NAMES_WITH_BIAS,
    encoder_names=_stack("encoder"),
    config_names={"d_model": "hidden_size"},
    ignored=(r"coder\.embed_tokens\.weight$", r"\.embed_positions\.weights?$"),
)
MBART = replace(BART, spec=mbart)
M2M_100 = replace(BART, spec=m2m_100, names=NAMES)
MARIAN = replace(BART, spec=marian)
PEGASUS = replace(BART, spec=pegasus)
