# SPDX-License-Identifier: BSD-3-Clause
"""What distinguishes one encoder from another beside its ModelSpec, as data."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Rows(Enum):
    """What of an input a head sees."""

    TOKENS = "every token"
    FIRST = "the first token"


class Width(Enum):
    """How many numbers a layer of a head yields."""

    HIDDEN = "hidden_size"
    EMBEDDING = "columns of the word table"
    LABELS = "classes"
    TWO = "two"
    VOCABULARY = "the vocabulary"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer of a head: a product, its activation, a norm behind it."""

    role: str
    """Of a vocabulary layer, that of its bias; its weight is the word table, or the role `decoder`."""
    activation: str = ""
    norm: str = ""
    """Role; empty: none."""
    width: Width = Width.HIDDEN


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """A head that a checkpoint may have: it has it where it has the weights of all its layers.

    Where two heads end in the same weight, the checkpoint has the first one.
    """

    output: str
    rows: Rows
    layers: tuple[LayerSpec, ...]
    architecture: str = ""
    """Part of a name in `architectures`, where weights alone do not tell heads apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disentangled:
    """Attention with relative positions as contents of their own. (DeBERTa, arXiv 2006.03654)"""

    num_buckets: int
    """Of one sign; 0: every distance up to max_distance has a row of its own."""
    max_distance: int
    content_to_position: bool
    position_to_content: bool
    shared: bool
    """Relative embeddings go through the products of the queries and keys."""
    normed: bool
    """A norm behind the relative embeddings."""

    @property
    def span(self) -> int:
        """Rows of the table for one sign."""
        return self.num_buckets or self.max_distance

    @property
    def num_parts(self) -> int:
        """Terms of a score."""
        return 1 + self.content_to_position + self.position_to_content


@dataclass(frozen=True, slots=True)
class ConvolutionSpec:
    """Of the embedded tokens, added to what the first layer gives. (DeBERTa v2 xlarge)"""

    width: int
    """Tokens that each one sees, an odd number."""
    activation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingSpec:
    """An encoder around the layers of a ModelSpec."""

    num_token_types: int = 0
    heads: tuple[HeadSpec, ...] = ()
    disentangled: Disentangled | None = None
    convolution: ConvolutionSpec | None = None
    labels: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()

    def present(self, has: Callable[[str, str], bool]) -> list[HeadSpec]:
        """The heads of a checkpoint, at most one for every output and every last weight.

        Args:
            has: whether it has (role, suffix).
        """
        found: dict[str, HeadSpec] = {}
        for head in self.heads:
            taken = [other.layers[-1].role for other in found.values()]
            is_free = head.output not in found and head.layers[-1].role not in taken
            if is_free and self._is_present(head, has):
                found[head.output] = head
        return list(found.values())

    def _is_present(self, head: HeadSpec, has: Callable[[str, str], bool]) -> bool:
        named = any(head.architecture in name for name in self.architectures)
        suffixes = {Width.VOCABULARY: ".bias"}
        return (named or not head.architecture) and all(
            has(layer.role, suffixes.get(layer.width, ".weight")) for layer in head.layers
        )
