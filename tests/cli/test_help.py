# SPDX-License-Identifier: BSD-3-Clause
"""What the command says of itself, and how it refuses to be called."""

import pytest
import typer
from commands import run
from typer.testing import CliRunner

from fastertransformer.cli.main import app

VERBS = typer.main.get_command(app).commands
WIDE = {"COLUMNS": "200"}


def test_help_lists_the_verbs():
    done = run("--help")
    assert done.returncode == 0
    for name in ("serve", "request", "check", "convert", "bench", "demo"):
        assert f" {name} " in done.stdout
        assert VERBS[name].get_short_help_str(200).rstrip(".") in done.stdout


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
    ],
)
def test_wrong_usage(arguments, message):
    done = CliRunner().invoke(app, arguments, env=WIDE)
    assert done.exit_code == 2
    assert message in done.output
