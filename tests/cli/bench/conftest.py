# SPDX-License-Identifier: BSD-3-Clause
"""A folder for the verbs to measure."""

import json
from pathlib import Path

import pytest
from tiny_model import TINY, TINY_BERT, TINY_T5


def folder_of(tmp_path_factory: pytest.TempPathFactory, config: dict[str, object]) -> Path:
    """A folder with a config.json and nothing else."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return folder_of(tmp_path_factory, TINY)


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory) -> Path:
    return folder_of(tmp_path_factory, TINY_T5)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    return folder_of(tmp_path_factory, TINY_BERT)
