# SPDX-License-Identifier: BSD-3-Clause
"""A tritonserver while it starts: it aborts once in a while, or for good, or a signal comes."""

import os
import signal
import venv
from pathlib import Path

import numpy
import pytest
from triton_process import bundled_server, free_ports

from fastertransformer.cli.tritonserver import START_ABORT, Ports, ServerError, TritonServer, signals_held
from fastertransformer.server import processes

FAILS_SO_OFTEN = """#!/bin/sh
echo start >> "$0.starts"
if [ $(wc -l < "$0.starts") -le {count} ]; then
  echo "terminate called after throwing an instance of '{text}'" >&2
  kill -ABRT $$
fi
exec {real} "$@"
"""


LEAVES_A_CHILD = """#!/bin/sh
sleep 300 &
echo $! > "$0.child"
exec {real} "$@"
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, **values: object) -> Path:
    """A program that is found in place of the real one, which it starts in the end."""
    program = folder / "bin" / "tritonserver"
    program.parent.mkdir()
    real = bundled_server()
    program.write_text(script.format(real=real / "bin" / "tritonserver", **values))
    program.chmod(0o755)
    (folder / "backends").symlink_to(real / "backends")
    (folder / "models").mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return program


def start(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int, text: str) -> int:
    """How often a server without models was started that fails `count` times."""
    program = install(folder, monkeypatch, FAILS_SO_OFTEN, count=count, text=text)
    with TritonServer(folder / "models", Ports(*free_ports(3))) as server:
        server.wait_until_ready(60)
    return len(Path(f"{program}.starts").read_text().splitlines())


def test_a_python_without_the_packages(tmp_path):
    """As in a container whose python3 is another one than that which pip installed into."""
    other, model = tmp_path / "other", tmp_path / "models" / "fastertransformer"
    venv.create(other)
    [packages] = other.glob("lib/*/site-packages")
    for folder in Path(numpy.__file__).parents[1].glob("numpy*"):
        (packages / folder.name).symlink_to(folder)  # Triton itself needs it
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text('backend: "fastertransformer"')
    path = f"{other / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with (
        TritonServer(tmp_path / "models", Ports(*free_ports(3)), variables={"PATH": path}) as server,
        pytest.raises(ServerError, match=rf"code 1:\nNo module named '\w+' in {other}, whose Python runs"),
    ):
        server.wait_until_ready(60)


def test_it_is_started_again(tmp_path, monkeypatch):
    assert start(tmp_path, monkeypatch, 2, START_ABORT) == 3


@pytest.mark.parametrize(("count", "text"), [(3, START_ABORT), (1, "std::bad_alloc")])
def test_what_does_not_pass_is_told(tmp_path, monkeypatch, count, text):
    with pytest.raises(ServerError, match=f"code -6:\n.*{text}"):
        start(tmp_path, monkeypatch, count, text)
    assert len((tmp_path / "bin" / "tritonserver.starts").read_text().splitlines()) == count


def test_what_a_server_left_ends_with_it(tmp_path, monkeypatch):
    """As a stub that it had just started when a signal came."""
    program = install(tmp_path, monkeypatch, LEAVES_A_CHILD)
    with TritonServer(tmp_path / "models", Ports(*free_ports(3))) as server:
        server.wait_until_ready(60)
        child = int(Path(f"{program}.child").read_text())
        assert processes.is_alive(child)
    assert not processes.is_alive(child)


def raise_while_held(number: signal.Signals, reached: list[int]) -> None:
    with signals_held():
        signal.raise_signal(number)
        reached.append(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_process_is_known(number):
    before, reached = signal.signal(number, signal.default_int_handler), []
    try:
        with pytest.raises(KeyboardInterrupt):
            raise_while_held(number, reached)
        assert reached == [number]
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
