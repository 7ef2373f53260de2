# SPDX-License-Identifier: BSD-3-Clause
"""The script behind `make gpu-scale`. Exit code 1: a step failed, or there is no GPU."""

import argparse
import json
import re
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from fastertransformer.cli.console import errors, output

from .hardware import Hardware, find_hardware
from .plan import ROOT, make_plan
from .run import FAILED, LATE, Outcome, run_steps
from .tables import make_tables, read_figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_scale", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "gpu-scale", help="for figures and logs"
    )
    parser.add_argument("--limit", type=float, default=520, help="seconds for everything")
    parser.add_argument("--only", default="", help="steps whose name this regular expression finds")
    arguments = parser.parse_args()
    # A shell that starts this in the background has it ignore Ctrl-C, and its steps, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hardware = find_hardware()
    if not hardware.gpus:
        errors.print("no GPU is visible: there is nothing to check or to measure")
        return 1
    errors.print(f"{len(hardware.gpus)} x {hardware.name}, {hardware.memory / 1e9:.0f} GB each")
    folder: Path = arguments.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    steps = [step for step in make_plan(hardware) if re.search(arguments.only, step.name)]
    started = time.monotonic()
    outcomes = run_steps(steps, hardware.gpus, folder, arguments.limit, _tell)
    write_report(outcomes, hardware, folder)
    bad = sum(outcome.status in {FAILED, LATE} for outcome in outcomes)
    errors.print(
        f"{len(outcomes)} steps, {bad} failed, {time.monotonic() - started:.0f} s; all of it is in {folder}"
    )
    return int(bad > 0)


def write_report(outcomes: list[Outcome], hardware: Hardware, folder: Path) -> None:
    """Tables on the screen, results.md for docs/performance.md, results.json for programs."""
    figures = read_figures(outcomes, folder)
    tables = make_tables(outcomes, figures)
    for table in tables:
        output.print(table.rich())
    (folder / "results.md").write_text("\n".join(table.markdown() for table in tables))
    content = {
        "hardware": asdict(hardware),
        "steps": [asdict(outcome) for outcome in outcomes],
        "figures": figures,
    }
    (folder / "results.json").write_text(json.dumps(content, indent=1))


def _tell(outcome: Outcome) -> None:
    line = f"{outcome.step.name}: {outcome.status} {outcome.detail} ({outcome.seconds:.0f} s)"
    errors.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
