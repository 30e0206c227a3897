"""Commands on what studies have produced: report; show, verify and reproduce; submit, leaderboard and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import STUDY, AsJson, Plugins, Results, app, console, folder_of, reading, seconds
from kdbench.errors import KdbenchError

PANEL = "Results"
ROW = "Id of a row (column `row` of leaderboard.csv), STUDY/METHOD, STUDY/METHOD/STUDENT, or a record's key."


@app.command(rich_help_panel=PANEL)
def report(
    study: Annotated[Path, typer.Argument(help=STUDY)], results: Results = Path("results"), plugins: Plugins = None
) -> None:
    """Write the tables and figures of a study again, from its records alone."""
    from kdbench.session import report_study

    reading()
    report_study(folder_of(study, results), console())


@app.command(rich_help_panel=PANEL)
def show(
    row: Annotated[str, typer.Argument(help=ROW, show_default=False)],
    results: Results = Path("results"),
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Print how each number of a row came about: the records behind it, and what is computed from them."""
    from kdbench.trace.command import show as run

    run(row, results, as_json)


@app.command(rich_help_panel=PANEL)
def verify(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of studies, or folders that hold some.", show_default=False)
    ],
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Hash all files of studies again, make their reports again, and name whatever does not fit (exit status 1)."""
    from kdbench.verify import run

    raise typer.Exit(run(folders, as_json))


@app.command(rich_help_panel=PANEL)
def reproduce(
    row: Annotated[str, typer.Argument(help=ROW, show_default=False)],
    seeds: Annotated[str, typer.Option(metavar="N|all", help="How many of the row's trainings are made again.")] = "1",
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A folder of its own; by default reproductions/STUDY-ROW.", show_default=False
        ),
    ] = None,
    by: Annotated[str, typer.Option(help="Who makes it: stands in reproduction.json.")] = "",
    results: Results = Path("results"),
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Train one row again, and say whether it is bit-equal, or else inside or outside its interval (exit status 1)."""
    from kdbench.reproduce import run

    raise typer.Exit(run(row, results, seeds, into, by, as_json))


def _print_submission_schema(wanted: bool) -> None:
    """Print the JSON schema of submissions and end, before anything else is looked at."""
    if wanted:
        from kdbench.submission.schema import json_schema

        typer.echo(json.dumps(json_schema(), indent=1))
        raise typer.Exit


@app.command(rich_help_panel=PANEL)
def submit(
    study: Annotated[Path, typer.Argument(help=STUDY, show_default=False)],
    name: Annotated[str, typer.Option(help="What tables call the submission.", show_default=False)],
    authors: Annotated[str, typer.Option(help="Who it is by, separated by commas.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="A new folder.", show_default=False)],
    url: Annotated[str | None, typer.Option(help="A page or a paper about it.")] = None,
    code: Annotated[str | None, typer.Option(help="Where the source of its plug-ins is.")] = None,
    contact: Annotated[str | None, typer.Option(help="How to reach the authors; it will be public.")] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Take paths and secrets out of error lines and environments of records.")
    ] = False,
    schema: Annotated[
        bool,
        typer.Option("--schema", callback=_print_submission_schema, is_eager=True, help="Print the JSON schema."),
    ] = False,
    results: Results = Path("results"),
    plugins: Plugins = None,
) -> None:
    """Pack a study for a public leaderboard: its records and whose they are, without weights, paths and secrets."""
    from kdbench.submission.pack import About, pack

    people = [author.strip() for author in authors.split(",") if author.strip()]
    made = pack(folder_of(study, results), About(name, people, url, code, contact), out, redact=redact)
    typer.echo(f"{out}: {len(made.rows)} rows, {len(made.files)} files. Check it: kdbench leaderboard {out} --check")
    for field in made.redacted:
        typer.echo(f"redacted: {field}")


@app.command(rich_help_panel=PANEL)
def leaderboard(
    folders: Annotated[
        list[Path], typer.Argument(help="Submissions and studies, or folders that hold them.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where the leaderboard goes.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 if anything is refused.")] = False,
    spot_check: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Print one row of each, drawn by lot, that took at most so long: 10m."),
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Rank the results of several studies and submissions together where they are comparable, and say why not else."""
    from kdbench.standings.command import run

    if not (out or check or spot_check):
        raise KdbenchError("nothing to do. Give --out FOLDER to write the leaderboard, or --check to look only.")
    raise typer.Exit(run(folders, out, check=check, spot_s=seconds(spot_check), say=typer.echo))


@app.command(rich_help_panel=PANEL)
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Studies, or folders that hold them.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where table and figure go.")] = None,
    plugins: Plugins = None,
) -> None:
    """Put studies that differ in a setting beside each other: a row for each method, a column for each study."""
    from kdbench.standings.command import compare_studies

    reading()
    compare_studies(folders, out, say=typer.echo)
