# SPDX-License-Identifier: BSD-3-Clause
"""Token ids on their way from a tensor to the engine."""

import pytest

from fastertransformer.errors import InvalidRequest
from fastertransformer.server.contracts.prompts import packed_ids


def test_ids_of_any_size_that_travels():
    ids = (0, 2**31, -1, 2**63 - 1)
    assert tuple(packed_ids("input_ids", ids, 100)) == ids


def test_an_id_that_cannot_travel_is_named():
    with pytest.raises(InvalidRequest) as error:
        packed_ids("input_ids", (7, 2**63, 8), 100)
    assert str(error.value) == f"input_ids: token id {2**63} at position 1 is not in the vocabulary [0, 100)"
