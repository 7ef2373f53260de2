# SPDX-License-Identifier: BSD-3-Clause
"""Names of tensors in old checkpoints."""

import re

_SUFFIXES = {"weight": "gamma", "bias": "beta"}


def legacy_name(name: str) -> str:
    """What TensorFlow's checkpoints and their conversions call weight and bias of a norm."""
    return re.sub(r"LayerNorm\.(weight|bias)$", lambda m: "LayerNorm." + _SUFFIXES[m[1]], name)
