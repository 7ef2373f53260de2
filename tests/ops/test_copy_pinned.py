# SPDX-License-Identifier: BSD-3-Clause
"""Words arrive as they are, in the order of the stream, and nothing beside them changes."""

import pytest
import torch

from fastertransformer import _C, ops

pytestmark = pytest.mark.gpu
SIZES = [0, 1, 255, 256, 5000, (1 << 16) + 1]
"""The last one is a copy engine's."""


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_there_and_back(size, dtype):
    source = torch.randn(size).to(dtype).pin_memory()
    there = torch.full((size + 2,), 7, dtype=dtype, device="cuda")
    back = torch.full((size + 2,), 7, dtype=dtype).pin_memory()
    ops.copy_pinned(there[1:-1], source)
    ops.copy_pinned(back[1:-1], there[1:-1])
    torch.cuda.synchronize()
    assert torch.equal(back[1:-1], source)
    assert there[[0, -1]].tolist() == back[[0, -1]].tolist() == [7, 7]


def test_the_next_kernel_finds_the_words():
    """It may start early, and does not wait before it reads positions."""
    table = torch.randn(1000, 64, device="cuda")
    positions = torch.zeros(600, dtype=torch.int32, device="cuda")
    for _ in range(50):
        wanted = torch.randint(1000, (600,), dtype=torch.int32).pin_memory()
        hidden = torch.zeros(600, 64, device="cuda")
        result = torch.empty(600, 64).pin_memory()
        ops.copy_pinned(positions, wanted)
        ops.add_positions(hidden, table, positions)
        ops.copy_pinned(result, hidden)
        torch.cuda.synchronize()
        assert torch.equal(result, table.cpu()[wanted.long()])


def test_what_does_not_fit_is_named():
    here, there = torch.zeros(3).pin_memory(), torch.zeros(6, device="cuda")
    for target, source, message in (
        (there[:4], here, r"source has shape \[3\]; expected \[4\]"),
        (there[:3], here.int(), "source is int32; expected float32"),
        (there[:3].half(), here.half(), "target is neither int32 nor float32"),
        (there[::2], here, "target is not contiguous"),
        (there[:3], there[3:], "source lies where the target does"),
        (here, here, "source lies where the target does"),
    ):
        with pytest.raises(ValueError, match=f"copy_pinned: {message}"):
            _C.cuda.copy_pinned(target, source, torch.cuda.current_stream().cuda_stream)
