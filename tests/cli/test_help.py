# SPDX-License-Identifier: BSD-3-Clause
"""What the command says of itself, and how it refuses to be called."""

import subprocess
import sys

import pytest
import typer
from commands import run
from typer.testing import CliRunner

from fastertransformer.cli.main import app

COMMANDS = typer.main.get_command(app)
VERBS = {name: COMMANDS.get_command(None, name) for name in COMMANDS.list_commands(None)}
WIDE = {"COLUMNS": "200"}


def test_help_lists_the_verbs():
    done = run("--help")
    assert done.returncode == 0
    for name, verb in VERBS.items():
        assert f" {name} " in done.stdout
        assert verb.get_short_help_str(200).rstrip(".") in done.stdout


@pytest.mark.parametrize("name", VERBS)
def test_every_parameter_is_explained(name):
    done = CliRunner().invoke(app, [name, "--help"], env=WIDE)
    assert done.exit_code == 0
    for parameter in VERBS[name].params:
        assert parameter.help, parameter.name
        assert parameter.opts[0] in done.output or parameter.name in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve"], "give either PATH or --model-repository"),
        (["serve", "a", "--model-repository", "b"], "give either PATH or --model-repository"),
        (["serve", "x", "--tensor-parallel", "2"], "--tensor-parallel"),
        (["serve", "x", "--tensor-para-size", "two"], "--tensor-para-size"),
        (["sevre"], "sevre"),
        (["serve", "x", "--instances", "0"], "--instances"),
        (["repository", "x", "y", "--interactive", "--contract", "tensorrt_llm"], "--interactive goes with"),
        (["request", "x", "--max-tokens", "99999999999"], "--max-tokens"),
        (["identity-test", "--top-k", "-1"], "--top-k"),
        (["identity-test", "--vocab-size", "99999999999"], "--vocab-size"),
        (["end-to-end-test", "--top-k", "-1"], "--top-k"),
    ],
)
def test_wrong_usage(arguments, message):
    done = CliRunner().invoke(app, arguments, env=WIDE)
    assert done.exit_code == 2
    assert message in done.output


NEEDS_TORCH = {"check", "convert", "bench", "bench-kernels", "bench-collectives", "demo"}


def test_a_client_does_not_wait_for_torch():
    program = f"""
import sys, typer
from fastertransformer.cli.main import app
commands = typer.main.get_command(app)
for verb in set(commands.list_commands(None)) - {NEEDS_TORCH}:
    commands.get_command(None, verb)
    assert "torch" not in sys.modules, verb
"""
    subprocess.run([sys.executable, "-c", program], check=True)
