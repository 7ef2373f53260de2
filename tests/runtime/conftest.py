# SPDX-License-Identifier: BSD-3-Clause
"""Every test of the runtime runs on the CPU and, where there is one, on a GPU."""

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)
