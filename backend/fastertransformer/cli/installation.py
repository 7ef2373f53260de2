# SPDX-License-Identifier: BSD-3-Clause
"""Where this installation keeps its backend and its templates: a checkout, or a wheel's data folder."""

import sys
from pathlib import Path

from ..server.command import PACKAGE_ROOT

_DATA = Path(sys.prefix, "share", "fastertransformer")


def backend_folder() -> Path:
    """The folder with model.py, to be linked as `backends/fastertransformer`."""
    return PACKAGE_ROOT if (PACKAGE_ROOT / "model.py").exists() else _DATA / "backend"


def templates() -> Path:
    """The folder model_repository."""
    beside = PACKAGE_ROOT.parent / "model_repository"
    return beside if beside.is_dir() else _DATA / "model_repository"
