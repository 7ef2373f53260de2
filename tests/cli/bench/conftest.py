# SPDX-License-Identifier: BSD-3-Clause
"""A folder for the verbs to measure."""

import json
from pathlib import Path

import pytest
from tiny_model import TINY


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a config.json and nothing else."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(TINY))
    return folder
