# SPDX-License-Identifier: BSD-3-Clause
"""The console command `fastertransformer`: one function per verb, imported when it is used."""

from importlib import import_module
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from ..errors import FasterTransformerError
from .console import errors

_STYLE: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": "rich"}
VERBS = {
    "serve": "serve",
    "repository": "repository",
    "request": "request",
    "issue-request": "issue_request",
    "identity-test": "identity_test",
    "end-to-end-test": "end_to_end_test",
    "lambada": "lambada",
    "check": "check",
    "convert": "convert",
    "bench": "bench",
    "bench-kernels": "bench",
    "bench-collectives": "bench",
    "demo": "demo",
}
"""Verb -> the module beside this one that has a function of its name."""


class _Verbs(TyperGroup):
    """Imports one verb alone: torch, which some of them need, takes longer than a request."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module = import_module(f".{VERBS[cmd_name]}", __package__)
        verb = typer.Typer(add_completion=False, **_STYLE)
        verb.command(cmd_name)(getattr(module, cmd_name.replace("-", "_")))
        return typer.main.get_command(verb)


app = typer.Typer(cls=_Verbs, no_args_is_help=True, **_STYLE)


@app.callback()
def _describe() -> None:
    """Serve transformer models with Triton Inference Server, and look at what they do."""


def main() -> None:
    """Errors that are meant for a user are printed as such."""
    try:
        app()
    except (FasterTransformerError, OSError) as error:  # the latter of files, with their names
        errors.print(f"[bold red]error[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
