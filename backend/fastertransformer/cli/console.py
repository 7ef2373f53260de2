# SPDX-License-Identifier: BSD-3-Clause
"""Where the commands print: results to stdout, everything else to stderr."""

import sys

from rich.console import Console

output = Console(width=None if sys.stdout.isatty() else 110)
"""As wide as the terminal; in a file or a pipe wide enough for every table."""
errors = Console(stderr=True)
