# SPDX-License-Identifier: BSD-3-Clause
"""Every kernel has a test that runs it; so that a new one without a test fails here."""

import ast
import re
from pathlib import Path

from kernels import CPU_SETS

from fastertransformer import _C
from fastertransformer.ops.registry import OPS

FOLDER = Path(__file__).parent
BINDINGS = FOLDER.parents[1] / "csrc/bindings.cpp"


def bound(space: str) -> set[str]:
    """Names in bindings.cpp: also of kernels that this machine cannot build."""
    return set(re.findall(rf"FT_BIND\({space}, (\w+)\)", BINDINGS.read_text()))


def names_in_tests() -> set[str]:
    """Strings in the tests with an argument `kernels`, which give names of ops to `run` and its like."""
    names: set[str] = set()
    for path in FOLDER.glob("test_*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        if any(isinstance(node, ast.arg) and node.arg == "kernels" for node in nodes):
            names |= {
                node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is str
            }
    return names


def test_every_kernel_of_an_op_is_tested():
    kernels = bound("cuda") | bound("cpu::set")
    assert sorted(name for name in OPS if name in kernels and name not in names_in_tests()) == []


def test_every_cpu_kernel_is_an_op_in_every_set():
    for name in CPU_SETS:
        built = {kernel for kernel in dir(getattr(_C.cpu_sets, name)) if not kernel.startswith("_")}
        assert built == bound("cpu::set")
    assert bound("cpu::set") <= set(OPS)
