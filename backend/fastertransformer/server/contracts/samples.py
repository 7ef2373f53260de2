# SPDX-License-Identifier: BSD-3-Clause
"""`num_return_sequences`: a row becomes as many requests of the engine, which share their prompt's blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

from ... import validation
from ...errors import InvalidRequest
from ...messages import EngineInfo

MAX_RETURN_SEQUENCES = 256


def num_samples(rows: Sequence[Mapping[str, Any]], info: EngineInfo) -> int:
    """Of every row of a request.

    Raises:
        InvalidRequest: none or too many, for a row or for a queue that takes all of a request or nothing.
    """
    samples: int = rows[0]["num_return_sequences"]
    if not 1 <= samples <= MAX_RETURN_SEQUENCES:
        raise InvalidRequest(f"num_return_sequences is {samples}; allowed is [1, {MAX_RETURN_SEQUENCES}]")
    count = len(rows) * samples
    if info.max_queue_size and count > info.max_queue_size:
        raise InvalidRequest(
            f"num_return_sequences is {samples} and the request has {len(rows)} rows: {count} sequences, but"
            f" at most {info.max_queue_size} may wait (max_queue_size)"
        )
    return samples


def seed_of(seed: int, sample: int) -> int:
    """Samples of a row draw from neighbouring seeds; the first one is what the row is alone."""
    return (seed + sample) % (validation.MAX_SEED + 1) if sample else seed
