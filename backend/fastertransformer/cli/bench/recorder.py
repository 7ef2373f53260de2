# SPDX-License-Identifier: BSD-3-Clause
"""What is recorded between two moments, by device: nothing, ops on a CPU, kernels on a GPU."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from ...ops.registry import OPS
from .trace import Account, account, device_intervals


class Recorder:
    """Records nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def begin(self) -> None:
        """From here on."""

    def end(self) -> None:
        """Up to here."""


class CpuRecorder(Recorder):
    """Time of every torch op without those that it calls, and of our kernels under the names of their ops."""

    def begin(self) -> None:
        self._kernels = {name: op.kernels["cpu"] for name, op in OPS.items() if "cpu" in op.kernels}
        for name, kernel in self._kernels.items():
            OPS[name].kernels["cpu"] = _named(name, kernel)
        self._profiler = torch_profile(activities=[ProfilerActivity.CPU])
        self._profiler.start()

    def end(self) -> None:
        self._profiler.stop()
        for name, kernel in self._kernels.items():
            OPS[name].kernels["cpu"] = kernel

    def account(self, us: float) -> Account:
        """The part of `us`, the whole time, in which no op ran is Python's."""
        result = Account()
        for event in self._profiler.key_averages():
            result.calls[event.key] += event.count
            result.times[event.key] += event.self_cpu_time_total
        result.gaps_between = max(0.0, us - result.busy)
        return result


class GpuRecorder(Recorder):
    """What the device ran, from CUPTI."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        # Once before any graph is captured, or CUPTI may not see into it.
        self.begin()
        torch.ones(1, device=device)
        self.wait()
        self.end()

    def begin(self) -> None:
        self._profiler = torch_profile(activities=[ProfilerActivity.CUDA])
        self._profiler.start()

    def end(self) -> None:
        self._profiler.stop()

    def account(self, us: float) -> Account:  # noqa: ARG002
        """The part of `us`, the whole time, that the device saw."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "trace.json")
            self._profiler.export_chrome_trace(str(path))
            return account(device_intervals(json.loads(path.read_text())))


def _named(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with record_function(name):
            return kernel(*arguments)

    return call
