# SPDX-License-Identifier: BSD-3-Clause
"""Rotary parameters of a config.json, in the spelling of transformers 5 and in the older one."""

from collections.abc import Callable

from ...errors import ModelLoadError
from ...layers.position import (
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    RopeSpec,
    Scaling,
    YarnScaling,
    longrope_attention_factor,
    yarn_attention_factor,
)
from ..hf_config import HFConfig


def rope_spec(config: HFConfig, rotary_share: float = 1.0) -> RopeSpec:
    """What all layers of most models have.

    Args:
        rotary_share: of a head's dimensions, where the config has no partial_rotary_factor.
    """
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    share = config.number("partial_rotary_factor", rotary_share)
    return rope_of(config, config.section(key), config.number("rope_theta", 10_000.0), share)


def rope_of(config: HFConfig, parameters: HFConfig, theta: float, rotary_share: float = 1.0) -> RopeSpec:
    """Theta, dimensions and scaling.

    Args:
        parameters: theta and rotary_share are used where it has none.

    Raises:
        ModelLoadError: a kind of scaling that is not known; lists those that are.
    """
    longest = config.integer("max_position_embeddings")
    parameters = parameters.completed(
        rope_theta=theta,
        partial_rotary_factor=rotary_share,
        max_position_embeddings=longest,
        original_max_position_embeddings=config.integer("original_max_position_embeddings", longest),
    )
    heads = config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", config.integer("hidden_size") // heads)
    return RopeSpec(
        parameters.number("rope_theta"),
        int(head_dim * parameters.number("partial_rotary_factor")),
        scaling=_scaling(parameters),
    )


def _scaling(parameters: HFConfig) -> Scaling | None:
    kind = parameters.text("rope_type", parameters.text("type", _UNSCALED))
    if kind != _UNSCALED and kind not in _SCALINGS:
        supported = ", ".join((_UNSCALED, *_SCALINGS))
        raise ModelLoadError(f"rope scaling {kind!r} is not supported; supported are {supported}")
    return None if kind == _UNSCALED else _SCALINGS[kind](parameters)


def _linear(parameters: HFConfig) -> Scaling:
    return LinearScaling(parameters.number("factor"))


def _factors(parameters: HFConfig) -> Scaling:
    return FactorScaling(parameters.numbers("factors"))


def _llama3(parameters: HFConfig) -> Scaling:
    return Llama3Scaling(
        factor=parameters.number("factor"),
        low_freq_factor=parameters.number("low_freq_factor"),
        high_freq_factor=parameters.number("high_freq_factor"),
        original_max_position_embeddings=parameters.integer("original_max_position_embeddings"),
    )


def _yarn(parameters: HFConfig) -> Scaling:
    factor = parameters.number("factor")
    default = yarn_attention_factor(factor)
    if parameters.has("mscale") and parameters.has("mscale_all_dim"):
        default = yarn_attention_factor(factor, parameters.number("mscale"))
        default /= yarn_attention_factor(factor, parameters.number("mscale_all_dim"))
    return YarnScaling(
        theta=parameters.number("rope_theta"),
        factor=factor,
        original_max_position_embeddings=parameters.integer("original_max_position_embeddings"),
        attention_factor=parameters.number("attention_factor", default),
        beta_fast=parameters.number("beta_fast", 32.0),
        beta_slow=parameters.number("beta_slow", 1.0),
        truncate=parameters.flag("truncate", True),
    )


def _longrope(parameters: HFConfig) -> Scaling:
    original = parameters.integer("original_max_position_embeddings")
    factor = parameters.number("factor", parameters.integer("max_position_embeddings") / original)
    return LongScaling(
        short_factors=parameters.numbers("short_factor"),
        long_factors=parameters.numbers("long_factor"),
        original_max_position_embeddings=original,
        attention_factor=parameters.number("attention_factor", longrope_attention_factor(factor, original)),
    )


_UNSCALED = "default"
_SCALINGS: dict[str, Callable[[HFConfig], Scaling]] = {
    "linear": _linear,
    "factors": _factors,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
