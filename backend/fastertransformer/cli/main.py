# SPDX-License-Identifier: BSD-3-Clause
"""The console command `fastertransformer`: one file per verb."""

import typer
from rich.markup import escape

from ..errors import FasterTransformerError
from . import (
    bench,
    check,
    convert,
    demo,
    end_to_end_test,
    identity_test,
    issue_request,
    lambada,
    repository,
    request,
    serve,
)
from .console import errors

app = typer.Typer(
    help="Serve transformer models with Triton Inference Server, and look at what they do.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("serve")(serve.serve)
app.command("repository")(repository.repository)
app.command("request")(request.request)
app.command("issue-request")(issue_request.issue_request)
app.command("identity-test")(identity_test.identity_test)
app.command("end-to-end-test")(end_to_end_test.end_to_end_test)
app.command("lambada")(lambada.lambada)
app.command("check")(check.check)
app.command("convert")(convert.convert)
app.command("bench")(bench.bench)
app.command("bench-kernels")(bench.bench_kernels)
app.command("bench-collectives")(bench.bench_collectives)
app.command("demo")(demo.demo)


def main() -> None:
    """Errors that are meant for a user are printed as such."""
    try:
        app()
    except FasterTransformerError as error:
        errors.print(f"[bold red]error[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
