# SPDX-License-Identifier: BSD-3-Clause
"""What travels between the verb and its ranks."""

from msgspec import Struct


class Job(Struct, frozen=True, kw_only=True):
    """What all ranks do."""

    ranks: int
    sizes: tuple[int, ...]
    """Bytes."""
    data_type: str
    device: str
    """cpu or cuda"""
    share_gpus: bool
    norm: bool
    """Sums with the residual sum and the norm behind them."""
    figures: str
    """Path of a file that gets a SumRow as JSON in every line."""


class SumRow(Struct, frozen=True, kw_only=True):
    """One size in one way."""

    ranks: int
    num_bytes: int
    """Of the tensor that every rank brings."""
    way: str
    us: float
    """Until the slowest rank is done: the mean of a row of launches, the best row of a few."""
    gb_per_second: float
    """Bytes that every rank must send and get, 2 (N - 1) / N of the tensor's, over that time."""
    shares_gpu: bool
    """Several ranks took turns on one GPU: the sums are right, and the time says nothing."""
