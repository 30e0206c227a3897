"""The command line: parses, calls, prints. One module for each group of commands; importing it registers them."""

from __future__ import annotations

import sys

from kdbench.cli import studies, results, catalogue  # --help shows the groups in this order
from kdbench.cli.options import app
from kdbench.errors import KdbenchError
from kdbench.redact import redact_logs, shown

__all__ = ["app", "catalogue", "main", "results", "studies"]


def main() -> None:
    """Run the command line; errors that a user can act on are printed without a traceback, with exit status 2."""
    redact_logs()
    try:
        app()
    except KdbenchError as error:
        sys.stderr.write(f"{shown(str(error))}\n")
        sys.exit(2)
    except OSError as error:  # a folder that cannot be written, a full disk
        sys.stderr.write(shown(f"{error.filename or 'kdbench'}: {error.strerror or error}") + "\n")
        sys.exit(2)
