# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures: tiny checkpoints, and one tritonserver that most tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from repositories import write_repository
from tokenizers import Tokenizer
from triton_process import TritonServer


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_llama(tmp_path_factory.mktemp("checkpoints") / "llama")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_gpt2(tmp_path_factory.mktemp("checkpoints") / "gpt2")


@pytest.fixture(scope="session")
def tokenizer(llama: Path) -> Tokenizer:
    return Tokenizer.from_file(str(llama / "tokenizer.json"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, llama: Path, gpt2: Path) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("triton")
    running = TritonServer(folder, write_repository(folder / "models", llama, gpt2))
    yield running
    running.stop()
