# SPDX-License-Identifier: BSD-3-Clause
"""Where engines have their directories: places that are no such place are refused by name."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastertransformer.config import EngineConfig
from fastertransformer.errors import ModelLoadError
from fastertransformer.server.placement import Placement
from fastertransformer.server.rundir import RuntimeDirectory

NOBODY = 65534


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of all engines of a user, not made yet."""
    with tempfile.TemporaryDirectory(prefix="ft") as folder:  # sockets must have short paths
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder, f"fastertransformer-{os.getuid()}-{Path('/proc/self/ns/pid').stat().st_ino}")


@pytest.fixture
def unwritable(place: Path) -> Iterator[Path]:
    """Root may write everywhere, and so is somebody else here."""
    place.parent.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    yield place
    os.seteuid(user)


def open_directory() -> RuntimeDirectory:
    return RuntimeDirectory(os.getpid(), EngineConfig(model_checkpoint_path="/nowhere"), Placement())


def refusal(place: Path) -> str:
    with pytest.raises(ModelLoadError) as refused, open_directory().locked(1):
        pass
    text = str(refused.value)
    assert text.startswith(str(place))
    assert "TMPDIR" in text
    return text


def test_a_directory_is_made(place: Path) -> None:
    with open_directory().locked(1):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_file_is_in_its_place(place: Path) -> None:
    place.touch(0o600)
    assert "it is -rw------- of user" in refusal(place)


def test_a_link_is_in_its_place(place: Path) -> None:
    place.symlink_to(place.parent)
    assert "it is lrwxrwxrwx of user" in refusal(place)


@pytest.mark.parametrize("mode", [0o755, 0o500])
def test_a_directory_of_another_mode_is_in_its_place(place: Path, mode: int) -> None:
    place.mkdir()
    place.chmod(mode)
    assert "with mode 0700" in refusal(place)


def test_a_folder_that_cannot_be_written(unwritable: Path) -> None:
    assert "cannot be made" in refusal(unwritable)
