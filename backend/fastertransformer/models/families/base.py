# SPDX-License-Identifier: BSD-3-Clause
"""The shape of a family: two pieces of data, no behaviour."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..hf_config import HFConfig
from ..spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    `names` maps the roles that models.transformer asks for to names in the checkpoint, without
    `.weight` and `.bias`; `{layer}` is the layer's number. A projection that a checkpoint stores
    fused has one role for the whole (`qkv`, `gate_up`) instead of one for each part.
    """

    spec: Callable[[HFConfig], ModelSpec]
    names: Mapping[str, str]
    prefix: str = ""
    """Some checkpoints of this family lack it at the start of names."""
    transposed: bool = False
    """Linear weights lie as [in, out]."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of tensors that inference does not need."""
