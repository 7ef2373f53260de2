# SPDX-License-Identifier: BSD-3-Clause
"""docker/: what the files name exists, and the scripts start what they say."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastertransformer.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


def dockerfile() -> str:
    return (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")


def test_what_is_copied_exists() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+)$", dockerfile(), re.MULTILINE)
    sources = [ROOT / name for line in copies for name in line.split()[:-1]]
    assert len(sources) > 5
    assert [path for path in sources if not path.exists()] == []


def test_the_build_stage_has_all_sources() -> None:
    """What the build of the wheel reads: CMakeLists.txt installs folders, pyproject.toml names files."""
    built_from = set(re.findall(r"^COPY (\S+) \S+$", dockerfile(), re.MULTILINE))
    installed = re.findall(r"install\((?:FILES|DIRECTORY) (\w+)", (ROOT / "CMakeLists.txt").read_text())
    assert set(installed) <= built_from
    named = re.search(r"^COPY (.+) \./$", dockerfile(), re.MULTILINE)
    assert named
    assert {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"} <= set(named.group(1).split())


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)$", dockerfile(), re.MULTILINE)
    assert users
    assert users[-1] not in {"root", "0"}


def test_compose_builds_this_image() -> None:
    compose: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    service = compose["services"]["triton"]
    context = (DOCKER / service["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / service["build"]["dockerfile"]).is_file()
    published = {port.rpartition(":")[2] for port in service["ports"]}
    exposed = re.search(r"^EXPOSE (.+)$", dockerfile(), re.MULTILINE)
    assert exposed
    assert set(exposed.group(1).split()) == published
    assert any(volume.endswith(":/models:ro") for volume in service["volumes"])


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """An environment in which tritonserver and others print how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("tritonserver", "fastertransformer", "ssh", "uname"):
        file = folder / name
        file.write_text(f'#!/bin/sh\necho {name} "$@"\ntest "${5:-}" != unreachable\n')
        file.chmod(0o755)
    nodes = folder / "scontrol"
    nodes.write_text('#!/bin/sh\ntest "$*" = "show hostnames n[1-2]" && printf "n1\\nn2\\n"\n')
    nodes.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def run(script: str, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [str(DOCKER / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **options)


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ([], "tritonserver --model-repository=/models"),
        (["--log-verbose=1"], "tritonserver --model-repository=/models --log-verbose=1"),
        (["serve", "/checkpoints/x", "--host", "a b"], "fastertransformer serve /checkpoints/x --host a b"),
        *(([verb, "--help"], f"fastertransformer {verb} --help") for verb in VERBS),
        (["uname", "-a"], "uname -a"),
    ],
)
def test_entrypoint(programs: dict[str, str], arguments: list[str], called: str) -> None:
    assert run("entrypoint.sh", *arguments, env=programs).stdout == f"{called}\n"


def test_several_nodes_over_ssh(programs: dict[str, str], tmp_path: Path) -> None:
    done = run("multi_node.sh", str(tmp_path), "8", "n1", "n2", "n3", "--", "--log-verbose=1", env=programs)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[5] for line in lines[:-1]] == ["n2", "n3"]
    assert lines[-1] == f"tritonserver --model-repository={tmp_path} --log-verbose=1"
    assert (tmp_path / "hostfile").read_text() == "n1 slots=8\nn2 slots=8\nn3 slots=8\n"


def test_a_node_that_does_not_answer(programs: dict[str, str], tmp_path: Path) -> None:
    done = run("multi_node.sh", str(tmp_path), "8", "n1", "unreachable", env=programs)
    assert done.returncode == 1
    assert "unreachable: no ssh without a password" in done.stderr
    assert "tritonserver" not in done.stdout
    assert run("multi_node.sh", str(tmp_path), "8", env=programs).returncode == 2


def test_slurm(programs: dict[str, str], tmp_path: Path) -> None:
    job = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS_PER_NODE": "4"}
    done = run("slurm.sh", str(tmp_path), "--log-verbose=1", env=programs | job)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"tritonserver --model-repository={tmp_path} --log-verbose=1\n"
    assert (tmp_path / "hostfile").read_text() == "n1 slots=4\nn2 slots=4\n"
