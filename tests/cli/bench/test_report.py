# SPDX-License-Identifier: BSD-3-Clause
"""Tables of figures have room for their figures."""

import io

from rich.console import Console

from fastertransformer.cli.bench.profiling import KernelTime, Profile
from fastertransformer.cli.bench.report import profile_table


def test_long_names_of_kernels_leave_room_for_the_figures():
    kernel = KernelTime(name="kernel<" + "argument, " * 40 + ">", calls=1234.0, us=123456.7, share=0.123)
    times = dict.fromkeys(("wall_us", "profiled_us", "busy_us", "gap_us", "host_us"), 1.0)
    profile = Profile(workload="1x1/1", batch=1, unit="step", kernels=[kernel], **times)
    text = io.StringIO()
    Console(file=text, width=110).print(profile_table(profile))
    row = next(line for line in text.getvalue().splitlines() if "kernel<" in line)
    assert row.split()[-3:] == ["1234.0", "123456.7", "12.3%"]
