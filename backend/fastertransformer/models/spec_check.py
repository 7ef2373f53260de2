# SPDX-License-Identifier: BSD-3-Clause
"""Numbers of a configuration with which nothing can be computed, or only what is not a number."""

from ..errors import ModelLoadError
from ..layers.position import RelativeBias, RopeSpec
from .spec import ModelSpec


def check_spec(spec: ModelSpec, source: str) -> None:
    """Args: source: the configuration, for errors. Raises: ModelLoadError: names the number and its range."""
    for stack in filter(None, (spec, spec.encoder)):
        if stack.norm_eps < 0:
            raise ModelLoadError(f"{source}: the epsilon of norms is {stack.norm_eps}; allowed is >= 0")
        for rope in filter(None, {stack.rope, *stack.ropes}):
            _check_rope(rope, stack.head_dim, source)
        if stack.relative_bias is not None:
            _check_buckets(stack.relative_bias, source)


def _check_rope(rope: RopeSpec, head_dim: int, source: str) -> None:
    if rope.rotary_dim % 2 or not 2 <= rope.rotary_dim <= head_dim:
        raise ModelLoadError(
            f"{source}: {rope.rotary_dim} dimensions of a head are rotated; allowed is an even number in"
            f" [2, {head_dim}]"
        )
    numbers = {"rope theta": rope.theta, "rope scaling factor": getattr(rope.scaling, "factor", 1.0)}
    for name, number in numbers.items():
        if number <= 0:
            raise ModelLoadError(f"{source}: {name} is {number}; allowed is > 0")


def _check_buckets(bias: RelativeBias, source: str) -> None:
    """Half of the buckets, of both directions together, hold one distance each, and others must follow."""
    if bias.num_buckets < _FEWEST_BUCKETS:
        raise ModelLoadError(
            f"{source}: relative_attention_num_buckets is {bias.num_buckets}; allowed is >= {_FEWEST_BUCKETS}"
        )
    if bias.max_distance <= bias.num_buckets // 2:
        raise ModelLoadError(
            f"{source}: relative_attention_max_distance is {bias.max_distance}; allowed is more than half of"
            f" the {bias.num_buckets} buckets"
        )


_FEWEST_BUCKETS = 4
"""Of an encoder one for no distance, and one for what is farther, in either direction."""
