# SPDX-License-Identifier: BSD-3-Clause
"""Where the commands print: results to stdout, everything else to stderr."""

from rich.console import Console

output = Console()
errors = Console(stderr=True)
