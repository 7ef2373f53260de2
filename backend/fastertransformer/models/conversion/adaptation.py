# SPDX-License-Identifier: BSD-3-Clause
"""What the formats keep differently: factors of word tables, rows in front of positions, sines."""

from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import ModelLoadError
from ...layers.position import sinusoidal_table
from ..checkpoint.fastertransformer import FasterTransformerCheckpoint
from ..encoding.spec import EncodingSpec
from ..families.base import Family
from ..families.fastertransformer import PADDING
from ..spec import SINUSOIDAL_SPREADS, ModelSpec
from ..weights import WeightReader
from .fastertransformer import scaled
from .pieces import Piece


class WordTables(NamedTuple):
    """How the word table of FasterTransformer's files and their head belong together."""

    is_tied: bool
    """They are one tensor of transformers."""
    scale: float = 1.0
    """Of the embedding, in its file."""
    words: Tensor | None = None
    """The table without it, where it has one."""


def word_tables(reader: WeightReader, spec: ModelSpec) -> WordTables:
    """What the tables say, which most converters both wrote in any case."""
    if spec.tie_word_embeddings:
        return WordTables(True)
    words, head = (reader.table(role, spec.vocab_size, spec.hidden_size) for role in ("embedding", "head"))
    factor = spec.hidden_size**0.5
    if spec.encoder is not None and torch.equal(words, scaled(head, factor)):
        return WordTables(True, factor, head)
    return WordTables(torch.equal(words, head))


def for_hugging_face(
    checkpoint: FasterTransformerCheckpoint,
    source: Family,
    found: Iterator[Piece],
    target: ModelSpec,
    words: WordTables,
) -> Iterator[Piece]:
    """The pieces of FasterTransformer's files as transformers has them.

    Raises:
        ModelLoadError: a table of positions is not that of the sines that transformers computes.
    """
    for piece in found:
        spec = target.encoder if piece.stack else target
        assert spec is not None
        if piece.role == "embedding" and words.words is not None:
            yield piece._replace(tensor=_without_factor(piece, words))
        elif piece.role == "positions" and spec.positions in SINUSOIDAL_SPREADS:
            _check_sines(piece.tensor, spec)
        elif piece.role == "positions" and spec.position_offset:
            yield piece._replace(tensor=_with_padding(checkpoint, piece, source, spec.position_offset))
        elif piece.role == "logits_bias":
            yield piece._replace(tensor=piece.tensor[None])
        else:
            yield piece


def _without_factor(piece: Piece, words: WordTables) -> Tensor:
    assert words.words is not None
    if not torch.equal(piece.tensor, scaled(words.words, words.scale)):
        raise ModelLoadError(
            "the word table of the encoder is not the decoder's; transformers has one for both"
        )
    return words.words


def _check_sines(table: Tensor, spec: ModelSpec) -> None:
    rows, width = table.shape
    spread = SINUSOIDAL_SPREADS[spec.positions]
    expected = sinusoidal_table(rows, width, spec.position_offset, spread).to(table.dtype)
    if (table.float() - expected.float()).abs().max() > _SINE_TOLERANCE:
        raise ModelLoadError("embed_positions is not the table of sines that transformers computes")


_SINE_TOLERANCE = 2e-3
"""Of half precision, and of angles up to a thousand in single precision."""


def _with_padding(
    checkpoint: FasterTransformerCheckpoint, piece: Piece, source: Family, offset: int
) -> Tensor:
    """With the rows in front that only transformers has, zeros where none were kept."""
    padding = piece.tensor.new_zeros(offset, piece.tensor.shape[1])
    name = f"{(source.encoder_names if piece.stack else source.names)['positions']}{PADDING}"
    if name in checkpoint.files.names:
        padding.copy_(checkpoint.slice(name, tuple(padding.shape), 0, 0, offset))
    return torch.cat([padding, piece.tensor])


def different_encoding(wanted: EncodingSpec, found: EncodingSpec) -> list[str]:
    """What of `wanted` is not in `found`."""
    names = [field.name for field in fields(EncodingSpec)]
    return [
        f"{name} {getattr(wanted, name)}" for name in names if getattr(wanted, name) != getattr(found, name)
    ]
