# SPDX-License-Identifier: BSD-3-Clause
"""The tree keeps to the tables of `architecture`, and the checker finds a tree that does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from architecture import (
    ALLOWED,
    MAX_LINES,
    PACKAGE,
    SPDX,
    file_violations,
    import_edges,
    import_violations,
    include_violations,
)

ROOT = Path(__file__).resolve().parents[1]


# The tree as it is


def test_imports_follow_the_table() -> None:
    assert import_violations(ROOT / "backend") == []


def test_includes_follow_the_table() -> None:
    assert include_violations(ROOT / "csrc") == []


def test_files_are_short_and_licensed() -> None:
    assert file_violations(ROOT) == []


def test_every_part_of_the_package_is_in_the_table() -> None:
    """A new folder has to say what it may import."""
    entries = (ROOT / "backend" / PACKAGE).iterdir()
    names = {p.stem for p in entries if p.suffix == ".py" or (p.is_dir() and any(p.glob("*.py")))}
    assert names - set(ALLOWED) == {"__init__"}


def test_the_walk_sees_edges_that_are_there() -> None:
    """Otherwise an empty list of violations would mean nothing."""
    edges = set(import_edges(ROOT / "backend"))
    assert {
        ("model", ".server.service"),
        (".server.contracts.core", ".validation"),
        (".worker", ".parallel.mpi"),  # within a function
        (".ops.registry", "._C"),
        (".server.service", "triton_python_backend_utils"),
        (".parallel.mpi", "mpi4py"),
    } <= edges


_IMPORT_ALL = f"""
import importlib, pkgutil, sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
for name in ("{PACKAGE}.server", "{PACKAGE}.engine"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
print(*sorted(sys.modules))
"""


def test_stub_and_scheduler_load_neither_torch_nor_mpi() -> None:
    """Also not through a library: a stub that loads torch holds hundreds of megabytes per instance."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "backend")}
    run = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL],
        env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    loaded = set(run.stdout.split())
    assert {f"{PACKAGE}.server.service", f"{PACKAGE}.engine.scheduler"} <= loaded
    assert loaded.isdisjoint({"torch", "mpi4py", "transformers", f"{PACKAGE}._C"})


# The checker on trees that are wrong


@pytest.mark.parametrize(
    ("name", "text", "target"),
    [
        ("~/server/a.py", "from ..engine import scheduler", ".engine.scheduler"),
        ("~/server/a.py", "import torch.nn", "torch"),
        ("~/server/contracts/a.py", "def f():\n    from ...models import load", ".models"),
        ("~/engine/a.py", "if TYPE_CHECKING:\n    from torch import Tensor", "torch"),
        ("~/engine/a.py", f"import {PACKAGE}.runtime.runner", ".runtime.runner"),
        ("~/runtime/a.py", "from ..engine.scheduler import Scheduler", ".engine.scheduler"),
        ("~/runtime/a.py", "import triton_python_backend_utils", "triton_python_backend_utils"),
        ("~/layers/a.py", f"from {PACKAGE}.models.spec import ModelSpec", ".models.spec"),
        ("~/layers/a.py", "from .. import _C", "._C"),
        ("~/layers/a.py", f"import importlib\nimportlib.import_module('{PACKAGE}._C')", "._C"),
        ("~/layers/__init__.py", "from ..models import load", ".models"),
        ("~/parallel/comm.py", "from mpi4py import MPI", "mpi4py"),
        ("~/ops/a.py", "from .. import quant", ".quant"),
        ("~/config.py", "from .messages import Request", ".messages"),
        ("model.py", f"from {PACKAGE}.engine import scheduler", ".engine.scheduler"),
        ("~/new/a.py", "from .. import errors", ".errors"),
        ("~/server/a.py", f"import {PACKAGE}", "."),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, name: str, text: str, target: str) -> None:
    _write(tmp_path / PACKAGE / "engine/scheduler.py", "from ..messages import Request\nimport numpy")
    _write(tmp_path / name.replace("~", PACKAGE), text)
    (violation,) = import_violations(tmp_path)
    assert violation.endswith(f" imports {target}")


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("core/a.h", "torch/extension.h"),
        ("bindings.cpp", "ATen/ATen.h"),
        ("cpu/a.cc", "pybind11/pybind11.h"),
        ("core/a.h", "Python.h"),
        ("core/a.h", "cpu/x.h"),
        ("cpu/a.cc", "cuda_runtime.h"),
        ("cpu/a.cc", "device/x.h"),
        ("cuda/a.cu", "cpu/x.h"),
        ("device/a.cuh", "core/x.h"),
        ("device/a.cuh", "../core/x.h"),
        ("device/a.cuh", "vector"),
        ("new/a.h", "core/x.h"),
    ],
)
def test_a_forbidden_include_is_found(tmp_path: Path, name: str, header: str) -> None:
    for part, allowed in {"core": "cstdint", "cpu": "core/x.h", "device": "cuda_fp16.h"}.items():
        _write(tmp_path / part / "x.h", f"#include <{allowed}>\n")
    _write(tmp_path / name, f"#include <{header}>\n")
    assert include_violations(tmp_path) == [f"{name} includes {header}"]


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        (f"# {SPDX}\n" + "\n" * (MAX_LINES - 1), None),
        (f"#!/bin/sh\n# {SPDX}\n", None),
        (f"# {SPDX}\n# Over 300 lines because it is one table.\n" + "\n" * MAX_LINES, None),
        (f"# {SPDX}\n" + "\n" * MAX_LINES, f"has {MAX_LINES + 1} lines"),
        (f"import os\n# {SPDX}\n", "does not start with"),
        ("", "does not start with"),
    ],
)
def test_a_long_or_unlicensed_file_is_found(tmp_path: Path, text: str, violation: str | None) -> None:
    _write(tmp_path / "backend/a.py", text)
    found = file_violations(tmp_path)
    assert [line for line in found if violation and violation in line] == found
    assert bool(found) == bool(violation)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
