# SPDX-License-Identifier: BSD-3-Clause
"""Every tensor of a dense decoder by its role, whatever the checkpoint calls it and however it lies there."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...parallel.mesh import Mesh
from ...quant.dense import DenseWeight
from ..block import TOPOLOGIES
from ..checkpoint import Checkpoint
from ..families.base import Family
from ..families.layouts import Layout
from ..spec import ModelSpec, Norm, Positions
from ..weights import OUTSIDE, Fused, Part, Place, Progress, WeightReader

TABLES = ("embedding", "positions", "head")
"""Roles that no format transposes."""


class Piece(NamedTuple):
    """A whole tensor: a matrix as [out, in]; q, k and v one behind the other, with the role `qkv`."""

    role: str
    suffix: str
    place: Place
    tensor: Tensor


def open_reader(
    checkpoint: Checkpoint, family: Family, dtype: torch.dtype, progress: Progress
) -> WeightReader:
    """Reads whole tensors in `dtype`."""
    cpu = torch.device("cpu")
    return WeightReader(checkpoint, family, Mesh(), dtype, cpu, progress, lambda part, _: DenseWeight(part))


def pieces(reader: WeightReader, spec: ModelSpec, layout: Layout) -> Iterator[Piece]:
    """What lies around the blocks, then block by block. A head that is tied is left out.

    Raises:
        ModelLoadError: a tensor is missing, of another shape, or belongs to nothing.
    """
    yield from _outer(reader, spec)
    for layer in range(spec.num_hidden_layers):
        yield from _block(reader, spec, layout, Place(layer))
    reader.expect("head")
    reader.check_complete(lambda _: False)


def qkv_rows(spec: ModelSpec, layout: Layout) -> Tensor:
    """Where the rows of q, k and v lie in a checkpoint that fuses them."""
    counts = {"q": spec.num_attention_heads, "k": spec.num_key_value_heads, "v": spec.num_key_value_heads}
    heads = [layout(spec, role, head) for role, count in counts.items() for head in range(count)]
    return (torch.tensor(heads)[:, None] * spec.head_dim + torch.arange(spec.head_dim)).flatten()


def qkv_parts(spec: ModelSpec) -> tuple[int, int, int]:
    """Rows of q, k and v."""
    keys = spec.num_key_value_heads * spec.head_dim
    return spec.num_attention_heads * spec.head_dim, keys, keys


def _outer(reader: WeightReader, spec: ModelSpec) -> Iterator[Piece]:
    vocabulary, hidden = spec.vocab_size, spec.hidden_size
    yield Piece("embedding", ".weight", OUTSIDE, reader.table("embedding", vocabulary, hidden))
    if spec.positions is Positions.LEARNED:
        rows, offset = spec.max_position_embeddings, spec.position_offset
        yield Piece("positions", ".weight", OUTSIDE, reader.table("positions", offset + rows, hidden))
    if spec.embedding_norm:
        yield from _norm(reader, spec, "embedding_norm", OUTSIDE)
    if spec.final_norm:
        yield from _norm(reader, spec, "final_norm", OUTSIDE)
    if not spec.tie_word_embeddings:
        yield Piece("head", ".weight", OUTSIDE, reader.table("head", vocabulary, hidden))
    if spec.head_bias:
        yield Piece("head", ".bias", OUTSIDE, reader.vector("head", ".bias", vocabulary))


def _block(reader: WeightReader, spec: ModelSpec, layout: Layout, place: Place) -> Iterator[Piece]:
    for role in TOPOLOGIES[spec.residual].norms:
        yield from _norm(reader, spec, role, place)
    hidden, inner = spec.hidden_size, spec.intermediate_size
    parts = [Part(role, size, 0, size) for role, size in zip("qkv", qkv_parts(spec), strict=True)]
    fused = Fused("qkv", qkv_rows(spec, layout))
    yield from _linear(reader, parts, hidden, fused, place, spec.qkv_bias)
    matrices = {
        "output": (hidden, parts[0].size, spec.output_bias),
        **({"gate": (inner, hidden, spec.mlp_bias)} if spec.gated_mlp else {}),
        "up": (inner, hidden, spec.mlp_bias),
        "down": (hidden, inner, spec.mlp_bias),
    }
    for role, (rows, columns, bias) in matrices.items():
        yield from _linear(
            reader, [Part(role, rows, 0, rows)], columns, Fused(role, torch.arange(rows)), place, bias
        )


def _norm(reader: WeightReader, spec: ModelSpec, role: str, place: Place) -> Iterator[Piece]:
    for suffix in (".weight", ".bias") if spec.norm is Norm.LAYER else (".weight",):
        yield Piece(role, suffix, place, reader.vector(role, suffix, spec.hidden_size, place))


def _linear(
    reader: WeightReader, parts: list[Part], columns: int, fused: Fused, place: Place, bias: bool
) -> Iterator[Piece]:
    yield Piece(fused.role, ".weight", place, reader.rows(parts, ".weight", columns, fused, place))
    if bias:
        yield Piece(fused.role, ".bias", place, reader.rows(parts, ".bias", 0, fused, place))
