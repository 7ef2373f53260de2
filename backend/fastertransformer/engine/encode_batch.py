# SPDX-License-Identifier: BSD-3-Clause
"""The plan of one step of an encoder: whole inputs, one behind the other without padding."""

from dataclasses import dataclass

from .batch import FloatArray, Int32Array


@dataclass(frozen=True, slots=True)
class EncodeBatch:
    """B inputs of T tokens together. Immutable after broadcast."""

    lengths: Int32Array
    """[B]"""
    outputs: tuple[tuple[str, ...], ...]
    """What each input is encoded for."""
    tokens: Int32Array | None
    """[T]"""
    token_types: Int32Array | None
    """[T]; None: all 0"""
    hidden_states: FloatArray | None
    """[T, hidden_size] instead of tokens."""
    ia3_rows: Int32Array | None = None
    """[B] 1 + IA3 task of each input, 0 for none; None: no input has one."""


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """What each input of a batch was encoded to, by the names that it asked for."""

    arrays: tuple[dict[str, FloatArray], ...]
