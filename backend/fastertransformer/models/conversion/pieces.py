# SPDX-License-Identifier: BSD-3-Clause
"""Every tensor of a dense model by its role, whatever the checkpoint calls it and however it lies there."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from ...layers.position import sinusoidal_table
from ...parallel.mesh import Mesh
from ...quant.dense import DenseWeight
from ..block import TOPOLOGIES
from ..checkpoint import Checkpoint
from ..encoding.spec import EncodingSpec, LayerSpec, Width
from ..families.base import Family
from ..families.layouts import Layout
from ..spec import SINUSOIDAL_SPREADS, ModelSpec, Norm, Positions
from ..weights import OUTSIDE, Fused, Part, Place, Progress, WeightReader

ENCODER = "encoder"
"""The stack of an encoder-decoder that is not the model's own."""


class Piece(NamedTuple):
    """A whole tensor: a matrix as [out, in]; q, k and v one behind the other, with the role `qkv`."""

    role: str
    suffix: str
    place: Place
    tensor: Tensor
    is_matrix: bool = False
    """Some formats hold it as [in, out]; not so tables, and products outside of the layers."""
    stack: str = ""
    """ENCODER, or nothing for a model of its own."""


def open_reader(
    checkpoint: Checkpoint, family: Family, dtype: torch.dtype, progress: Progress
) -> WeightReader:
    """Reads whole tensors in `dtype`."""
    cpu = torch.device("cpu")
    return WeightReader(checkpoint, family, Mesh(), dtype, cpu, progress, lambda part, _: DenseWeight(part))


def pieces(
    reader: WeightReader, spec: ModelSpec, layout: Layout, encoding: EncodingSpec | None = None
) -> Iterator[Piece]:
    """An encoder's first; of each stack what lies around the blocks, then block by block. A head that is
    tied is left out.

    Args:
        encoding: of a model that encodes and does not generate.

    Raises:
        ModelLoadError: a tensor is missing, of another shape, or belongs to nothing.
    """
    if spec.encoder is not None:
        found = _stack(reader.of_encoder(), spec.encoder, layout)
        yield from (piece._replace(stack=ENCODER) for piece in found)
    yield from _stack(reader, spec, layout, encoding)
    if encoding is None:
        yield from _head(reader, spec)
    else:
        yield from _heads(reader, spec, encoding)
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


def named(piece: Piece, family: Family, spec: ModelSpec) -> dict[str, Tensor]:
    """The tensors that a piece is in a family: q, k and v apart where it has no name for all.

    Args:
        spec: of the piece's stack.
    """
    names = family.encoder_names if piece.stack else family.names
    if piece.role != "qkv" or "qkv" in names:
        tensor = piece.tensor
        if piece.role == "qkv":
            tensor = torch.empty_like(piece.tensor)
            tensor[qkv_rows(spec, family.qkv_layout)] = piece.tensor
        return {_name(piece, names, spec): tensor}
    parts = torch.split(piece.tensor, list(qkv_parts(spec)))
    return {
        _name(piece._replace(role=role), names, spec): part for role, part in zip("qkv", parts, strict=True)
    }


def shares_words(family: Family) -> bool:
    """Whether encoder and decoder have one word table."""
    tables = [names.get("embedding", "") for names in (family.encoder_names, family.names)]
    first, second = (name if isinstance(name, str) else name[0] for name in tables)
    return first == second


def _name(piece: Piece, names: Mapping[str, str | tuple[str, ...]], spec: ModelSpec) -> str:
    """The first of several; of a gated MLP's product and that of one without a gate, the right one."""
    known = names[piece.role]
    known = (known,) if isinstance(known, str) else known
    chosen = known[-1] if piece.role == "up" and not spec.gated_mlp else known[0]
    return chosen.format(**piece.place._asdict()) + piece.suffix


def _stack(
    reader: WeightReader, spec: ModelSpec, layout: Layout, encoding: EncodingSpec | None = None
) -> Iterator[Piece]:
    yield from _outer(reader, spec, encoding)
    for layer in range(spec.num_hidden_layers):
        yield from _block(reader, spec, layout, Place(layer), encoding)


def _outer(reader: WeightReader, spec: ModelSpec, encoding: EncodingSpec | None) -> Iterator[Piece]:
    vocabulary, hidden = spec.vocab_size, spec.hidden_size
    width = spec.embedding_size or hidden
    if reader.has("embedding", ".weight"):
        yield Piece("embedding", ".weight", OUTSIDE, reader.table("embedding", vocabulary, width))
        yield from _positions(reader, spec, width)
        if encoding is not None and encoding.num_token_types:
            table = reader.table("token_types", encoding.num_token_types, width)
            yield Piece("token_types", ".weight", OUTSIDE, table)
        if spec.embedding_norm:
            yield from _norm(reader, spec, "embedding_norm", OUTSIDE)
    if encoding is not None and encoding.disentangled is not None:
        rows = 2 * encoding.disentangled.span
        yield Piece("relative", ".weight", OUTSIDE, reader.table("relative", rows, hidden))
        if encoding.disentangled.normed:
            yield from _norm(reader, spec, "relative_norm", OUTSIDE)
    if spec.final_norm:
        yield from _norm(reader, spec, "final_norm", OUTSIDE)


def _positions(reader: WeightReader, spec: ModelSpec, width: int) -> Iterator[Piece]:
    """Sines too, which are no tensor in transformers' files."""
    rows, offset = spec.max_position_embeddings, spec.position_offset
    if spec.positions is Positions.LEARNED:
        yield Piece("positions", ".weight", OUTSIDE, reader.table("positions", offset + rows, width))
    elif spec.positions in SINUSOIDAL_SPREADS:
        table = sinusoidal_table(rows, width, offset, SINUSOIDAL_SPREADS[spec.positions])
        yield Piece("positions", ".weight", OUTSIDE, table.to(reader.dtype))


def _head(reader: WeightReader, spec: ModelSpec) -> Iterator[Piece]:
    if not spec.tie_word_embeddings:
        table = reader.table("head", spec.vocab_size, spec.embedding_size or spec.hidden_size)
        yield Piece("head", ".weight", OUTSIDE, table)
    if spec.head_bias:
        role, suffix = reader.head_bias_name
        yield Piece(role, suffix, OUTSIDE, reader.head_bias(spec.vocab_size))


def _heads(reader: WeightReader, spec: ModelSpec, encoding: EncodingSpec) -> Iterator[Piece]:
    """Layers of the heads, each once: some heads share their first ones."""
    present = encoding.present(reader.has)
    layers = {layer.role: layer for layer in chain(*(head.layers for head in present))}
    for layer in layers.values():
        yield from _head_layer(reader, spec, encoding, layer)


def _head_layer(
    reader: WeightReader, spec: ModelSpec, encoding: EncodingSpec, layer: LayerSpec
) -> Iterator[Piece]:
    width = spec.embedding_size or spec.hidden_size
    widths = {Width.EMBEDDING: width, Width.LABELS: len(encoding.labels), Width.TWO: 2}
    if layer.width is Width.VOCABULARY:
        yield Piece(layer.role, ".bias", OUTSIDE, reader.vector(layer.role, ".bias", spec.vocab_size))
        if not spec.tie_word_embeddings:
            yield Piece("decoder", ".weight", OUTSIDE, reader.table("decoder", spec.vocab_size, width))
            if reader.has("decoder", ".bias"):
                bias = reader.vector("decoder", ".bias", spec.vocab_size)
                yield Piece("decoder", ".bias", OUTSIDE, bias)
        return
    rows = widths.get(layer.width, spec.hidden_size)
    yield Piece(layer.role, ".weight", OUTSIDE, reader.table(layer.role, rows, spec.hidden_size))
    if reader.has(layer.role, ".bias"):
        yield Piece(layer.role, ".bias", OUTSIDE, reader.vector(layer.role, ".bias", rows))
    if layer.norm:
        for suffix in (".weight", ".bias"):
            yield Piece(layer.norm, suffix, OUTSIDE, reader.vector(layer.norm, suffix, rows))


def _block(
    reader: WeightReader, spec: ModelSpec, layout: Layout, place: Place, encoding: EncodingSpec | None
) -> Iterator[Piece]:
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
    if spec.encoder is not None:
        yield from _norm(reader, spec, "cross_norm", place)
        matrices |= {
            "cross_q": (parts[0].size, hidden, spec.qkv_bias),
            "cross_k": (parts[0].size, spec.encoder.hidden_size, spec.qkv_bias),
            "cross_v": (parts[0].size, spec.encoder.hidden_size, spec.qkv_bias),
            "cross_output": (hidden, parts[0].size, spec.output_bias),
        }
    for role, (rows, columns, bias) in matrices.items():
        yield from _linear(
            reader, [Part(role, rows, 0, rows)], columns, Fused(role, torch.arange(rows)), place, bias
        )
    relative = spec.relative_bias
    if relative is not None and (place.layer == 0 or not relative.is_shared):
        heads = spec.num_attention_heads
        table = reader.own_columns("relative_bias", relative.num_buckets, heads, (0, heads), place)
        yield Piece("relative_bias", ".weight", place, table, is_matrix=True)
    if encoding is not None and encoding.disentangled is not None:
        yield from _own_products(reader, spec, place, encoding)


def _own_products(
    reader: WeightReader, spec: ModelSpec, place: Place, encoding: EncodingSpec
) -> Iterator[Piece]:
    """Of relative embeddings, where they do not share those of contents."""
    parts, size = encoding.disentangled, spec.hidden_size
    assert parts is not None
    present = {"position_k": parts.content_to_position, "position_q": parts.position_to_content}
    for role, is_present in present.items():
        if is_present and not parts.shared:
            part = [Part(role, size, 0, size)]
            yield from _linear(reader, part, size, Fused(role, torch.arange(size)), place, bias=True)


def _norm(reader: WeightReader, spec: ModelSpec, role: str, place: Place) -> Iterator[Piece]:
    for suffix in (".weight", ".bias") if spec.norm is Norm.LAYER else (".weight",):
        yield Piece(role, suffix, place, reader.vector(role, suffix, spec.hidden_size, place))


def _linear(
    reader: WeightReader, parts: list[Part], columns: int, fused: Fused, place: Place, bias: bool
) -> Iterator[Piece]:
    weight = reader.rows(parts, ".weight", columns, fused, place)
    yield Piece(fused.role, ".weight", place, weight, is_matrix=True)
    if bias:
        yield Piece(fused.role, ".bias", place, reader.rows(parts, ".bias", 0, fused, place))
