"""Commands on what studies have produced: report; show, verify and reproduce; submit and leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import STUDY, Plugins, Results, app, console, folder_of

PANEL = "Results"


@app.command(rich_help_panel=PANEL)
def report(
    study: Annotated[Path, typer.Argument(help=STUDY)], results: Results = Path("results"), plugins: Plugins = None
) -> None:
    """Write the tables and figures of a study again, from its records alone."""
    from kdbench.session import report_study

    report_study(folder_of(study, results), console())
