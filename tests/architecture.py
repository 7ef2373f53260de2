# SPDX-License-Identifier: BSD-3-Clause
"""The architecture as tables, and what finds a file that does not keep to them.

An edge that the code needs is added here first, and in docs/architecture.md. Imports count wherever
they stand: in functions, under TYPE_CHECKING and as import_module("...") too.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = "fastertransformer"
_BORDER = ("messages", "frames", "config", "errors", "validation")

ALLOWED: dict[str, tuple[str, ...]] = {
    "model": ("server", "errors"),
    "worker": ("engine", "runtime", "models", "ops", "parallel", "messages", "config", "errors"),
    "cli": (
        "server",
        "worker",
        "runtime.device",
        "models",
        "ops",
        "parallel",
        "config",
        "messages",
        "errors",
    ),
    "server": _BORDER,
    "engine": _BORDER,
    "runtime": (
        "models",
        "ops",
        "parallel",
        "engine.batch",
        "engine.encode_batch",
        "messages",
        "config",
        "errors",
    ),
    "models": ("layers", "quant", "parallel.mesh", "parallel.comm", "config", "errors"),
    "layers": ("ops", "quant", "parallel.comm"),
    "quant": ("ops",),
    "ops": ("errors", "_C"),
    "parallel": ("errors",),
    "parallel.peers": ("parallel.comm", "_C"),
    "validation": ("messages", "errors"),
    "config": ("errors",),
    "frames": ("messages",),
    "messages": (),
    "errors": (),
}
"""Part of the package (a folder or a module) -> the parts it may import. It may always import itself."""

EXTERNAL: dict[str, tuple[str, ...]] = {
    "triton_python_backend_utils": ("model", "server"),
    "mpi4py": ("parallel.mpi",),
    "torch": ("worker", "runtime", "models", "layers", "quant", "ops", "parallel", "cli"),
    "transformers": ("cli",),
}
"""Library -> the only parts that may import it."""

INCLUDES: dict[str, tuple[str, ...]] = {
    "bindings.cpp": ("cpu", "cuda", "core"),
    "cuda": ("cuda", "device", "core"),
    "cpu": ("cpu", "core"),
    "device": ("device",),
    "core": ("core",),
}
"""Part of csrc -> the parts whose headers it may include."""

SYSTEM_INCLUDES: dict[str, tuple[str, ...]] = {
    r"pybind11/|Python\.h": ("bindings.cpp",),
    r"cuda|cub/|nccl|cooperative_groups|mma\.h": ("cuda", "device"),
    r"torch/|ATen/|c10/": (),
    r"cstdint$": ("bindings.cpp", "cuda", "cpu", "device", "core"),
}
"""Pattern of a library's header -> the only parts that may include it."""

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)', re.MULTILINE)

MAX_LINES = 300
REASON = re.compile(r"over 300 lines because", re.IGNORECASE)
HEAD_LINES = 12
SPDX = "SPDX-License-Identifier: BSD-3-Clause"
SUFFIXES = {".py", ".h", ".inc", ".cc", ".cpp", ".cu", ".cuh", ".pbtxt", ".sh"}
NAMES = {"CMakeLists.txt", "Makefile", "Dockerfile"}
FOLDERS = ("backend", "csrc", "model_repository", "tests", "docker")


# Imports


def import_violations(backend: Path) -> list[str]:
    """Every import of `backend` that is no edge of ALLOWED or EXTERNAL."""
    return [
        f"{importer} imports {target}"
        for importer, target in import_edges(backend)
        if not _may_import(importer, target)
    ]


def import_edges(backend: Path) -> Iterator[tuple[str, str]]:
    """(importer, imported): modules of the package begin with a dot, a library is its first name."""
    files = {_module(path, backend): path for path in sorted(backend.rglob("*.py"))}
    for importer, path in files.items():
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            for target in _targets(node, package, files):
                yield _short(importer), _short(target)


def _module(path: Path, backend: Path) -> str:
    parts = path.relative_to(backend).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _targets(node: ast.AST, package: str, modules: Iterable[str]) -> list[str]:
    """Full names of what one statement imports; of a name in a module, the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Call):
        return _dynamic_targets(node)
    if not isinstance(node, ast.ImportFrom):
        return []
    base = _absolute(node, package)
    names = [f"{base}.{alias.name}" for alias in node.names]
    # What comes from the package itself is a module: one of ours, or the compiled one.
    return [name if name in modules or base == PACKAGE else base for name in names]


def _dynamic_targets(call: ast.Call) -> list[str]:
    is_import = ast.unparse(call.func) in ("importlib.import_module", "import_module", "__import__")
    names = call.args[:1] if is_import else []
    return [name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)]


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


def _short(module: str) -> str:
    if _lies_in(module, [PACKAGE]):
        return "." + module.removeprefix(PACKAGE).removeprefix(".")
    return module.partition(".")[0]


def _lies_in(module: str, parts: Iterable[str]) -> bool:
    return any(module == part or module.startswith(part + ".") for part in parts)


def _may_import(importer: str, target: str) -> bool:
    importer = importer.removeprefix(".")
    if not target.startswith("."):
        return target not in EXTERNAL or _lies_in(importer, EXTERNAL[target])
    part = max((key for key in ALLOWED if _lies_in(importer, [key])), key=len, default="")
    return bool(part) and _lies_in(target[1:], (part, *ALLOWED[part]))


# Includes


def include_violations(csrc: Path) -> list[str]:
    """Every #include of `csrc` that is no edge of INCLUDES or SYSTEM_INCLUDES."""
    return [
        f"{path.relative_to(csrc)} includes {header}"
        for path in sorted(path for path in csrc.rglob("*") if path.suffix in SUFFIXES)
        for header in INCLUDE.findall(path.read_text())
        if not _may_include(csrc, path, header)
    ]


def _may_include(csrc: Path, path: Path, header: str) -> bool:
    part = path.relative_to(csrc).parts[0]
    for origin in (csrc, path.parent):
        file = (origin / header).resolve()
        if file.is_file() and file.is_relative_to(csrc.resolve()):
            return part in INCLUDES and file.relative_to(csrc.resolve()).parts[0] in INCLUDES[part]
    for pattern, parts in SYSTEM_INCLUDES.items():
        if re.match(pattern, header):
            return part in parts
    return part != "device"


# Files


def source_files(root: Path) -> list[Path]:
    """What people wrote: no caches, no build."""
    below = (path for folder in FOLDERS for path in (root / folder).rglob("*"))
    found = [path for path in (*below, *root.iterdir()) if path.suffix in SUFFIXES or path.name in NAMES]
    return sorted(path for path in found if path.is_file() and "build" not in path.relative_to(root).parts)


def file_violations(root: Path) -> list[str]:
    """Files without a licence line, or longer than MAX_LINES without a reason in their head."""
    violations = []
    for path in source_files(root):
        lines = path.read_text().splitlines()
        is_script = bool(lines) and lines[0].startswith("#!")
        if SPDX not in "".join(lines[is_script : is_script + 1]):
            violations.append(f"{path.relative_to(root)} does not start with {SPDX}")
        if len(lines) > MAX_LINES and not REASON.search("\n".join(lines[:HEAD_LINES])):
            violations.append(f"{path.relative_to(root)} has {len(lines)} lines")
    return violations
