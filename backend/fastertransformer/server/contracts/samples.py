# SPDX-License-Identifier: BSD-3-Clause
"""`num_return_sequences`: a row becomes as many requests of the engine, which share their prompt's blocks."""

from collections.abc import Mapping
from typing import Any

from ... import validation
from ...errors import InvalidRequest

MAX_RETURN_SEQUENCES = 256


def num_samples(values: Mapping[str, Any]) -> int:
    """Of every row of a request. Raises: InvalidRequest."""
    samples: int = values["num_return_sequences"]
    if not 1 <= samples <= MAX_RETURN_SEQUENCES:
        raise InvalidRequest(f"num_return_sequences is {samples}; allowed is [1, {MAX_RETURN_SEQUENCES}]")
    return samples


def seed_of(seed: int, sample: int) -> int:
    """Samples of a row draw from neighbouring seeds; the first one is what the row is alone."""
    return (seed + sample) % (validation.MAX_SEED + 1) if sample else seed
