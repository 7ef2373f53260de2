# SPDX-License-Identifier: BSD-3-Clause
"""Captures go well whatever else the process gives up meanwhile."""

import gc

import pytest
import torch

from fastertransformer.runtime.captures import Captures


@pytest.mark.gpu
def test_graphs_of_another_engine_are_not_destroyed_during_a_capture():
    total = torch.zeros(1, device="cuda")

    def count() -> torch.Tensor:
        return total.add_(1)

    others = [Captures(lambda _: (total, count))]
    with torch.cuda.stream(torch.cuda.Stream()):
        others[0].launch("key", lambda _: None)

    def count_beside_garbage() -> torch.Tensor:
        """Gives the other graph up in a cycle, and makes so many objects that a collection is due."""
        if torch.cuda.is_current_stream_capturing():
            cycle = [others.pop()]
            cycle.append(cycle)
            del cycle
            assert len([[] for _ in range(10 * gc.get_threshold()[0])]) > 0
        return count()

    captures = Captures(lambda _: (total, count_beside_garbage))
    with torch.cuda.stream(torch.cuda.Stream()):
        captures.launch("key", lambda _: None)
        before = int(total)
        captures.launch("key", lambda _: None)
        assert int(total) == before + 1
    assert not others
    assert gc.isenabled()
