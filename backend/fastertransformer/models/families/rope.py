# SPDX-License-Identifier: BSD-3-Clause
"""Rotary parameters of a config.json, in the spelling of transformers 5 and in the older one."""

from collections.abc import Callable

from ...errors import ModelLoadError
from ...layers.position import (
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    RopeSpec,
    Scaling,
    YarnScaling,
    yarn_attention_factor,
)
from ..hf_config import HFConfig


def rope_spec(config: HFConfig, rotary_dim: int) -> RopeSpec:
    """Theta and scaling.

    Raises:
        ModelLoadError: a kind of scaling that is not known; lists those that are.
    """
    parameters = config.section("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    theta = config.number("rope_theta", 10_000.0)
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    if kind not in _SCALINGS:
        raise ModelLoadError(f"rope scaling {kind!r} is not supported; supported are {', '.join(_SCALINGS)}")
    return RopeSpec(
        theta=parameters.number("rope_theta", theta),
        rotary_dim=rotary_dim,
        scaling=_SCALINGS[kind](parameters, config),
    )


def _none(parameters: HFConfig, config: HFConfig) -> None:
    return None


def _factors(parameters: HFConfig, config: HFConfig) -> Scaling:
    return FactorScaling(parameters.numbers("factors"))


def _linear(parameters: HFConfig, config: HFConfig) -> Scaling:
    return LinearScaling(parameters.number("factor"))


def _llama3(parameters: HFConfig, config: HFConfig) -> Scaling:
    return Llama3Scaling(
        factor=parameters.number("factor"),
        low_freq_factor=parameters.number("low_freq_factor"),
        high_freq_factor=parameters.number("high_freq_factor"),
        original_max_position_embeddings=parameters.integer("original_max_position_embeddings"),
    )


def _yarn(parameters: HFConfig, config: HFConfig) -> Scaling:
    factor = parameters.number("factor")
    whole = config.integer("max_position_embeddings")
    default = yarn_attention_factor(factor)
    if parameters.has("mscale") and parameters.has("mscale_all_dim"):
        default = yarn_attention_factor(factor, parameters.number("mscale"))
        default /= yarn_attention_factor(factor, parameters.number("mscale_all_dim"))
    return YarnScaling(
        factor=factor,
        original_max_position_embeddings=parameters.integer("original_max_position_embeddings", whole),
        attention_factor=parameters.number("attention_factor", default),
        beta_fast=parameters.number("beta_fast", 32.0),
        beta_slow=parameters.number("beta_slow", 1.0),
        truncate=parameters.flag("truncate", True),
    )


_SCALINGS: dict[str, Callable[[HFConfig, HFConfig], Scaling | None]] = {
    "default": _none,
    "factors": _factors,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
