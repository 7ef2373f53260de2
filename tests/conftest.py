# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share: GPU tests are skipped where there is no GPU, torch has one thread, signals arrive."""

import signal
from pathlib import Path

import pytest
import torch

from fastertransformer import _C

LONG = ("server", "cli", "worker")
"""Folders whose files take minutes: first, so that no process is left alone with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(here).parts[0] not in LONG)
    if torch.cuda.is_available() and hasattr(_C, "cuda"):
        return
    reason = "no CUDA device" if not torch.cuda.is_available() else "this build has no CUDA kernels"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_configure() -> None:
    # A shell that starts the tests in the background has them ignore these, and what they start, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # The tensors of tests are small: threads would spend their time waiting for each other.
    torch.set_num_threads(1)
