# SPDX-License-Identifier: BSD-3-Clause
"""Ends the processes that engines of tests shared."""

from collections.abc import Iterator

import pytest
from engine_runs import RANKS


@pytest.fixture(scope="session", autouse=True)
def _ranks() -> Iterator[None]:
    yield
    RANKS.stop()
