"""Commands on a study: run, validate, plan, status, ui, sync."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import STUDY, AsJson, Plugins, Results, Set, StudyFile, app, console, folder_of, load, seconds

PANEL = "Studies"


@app.command(rich_help_panel=PANEL)
def run(
    study_file: StudyFile,
    overrides: Set = None,
    results: Results = Path("results"),
    budget: Annotated[
        str | None, typer.Option(help="Stop starting new trainings in time to end within, say, 20m.")
    ] = None,
    until: Annotated[str, typer.Option(help="Last stage: teachers, search, final or latency (all).")] = "latency",
    stamp: Annotated[
        Path | None, typer.Option(help="Write there what the last stage made, once it is complete: for pipelines.")
    ] = None,
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Run a study: teacher, search, final seeds, latency, report. Run it again to go on where it stopped."""
    from kdbench.session import run_study

    limit = seconds(budget)
    study = load(study_file, overrides)
    done = run_study(study, study_file.read_text(), results / study.study, limit, until, console(), as_json, stamp)
    raise typer.Exit(done)


@app.command(rich_help_panel=PANEL)
def validate(
    study_files: Annotated[list[Path], typer.Argument(help="Study files.")],
    overrides: Set = None,
    plugins: Plugins = None,
) -> None:
    """Check study files without running anything; every mistake is reported at once."""
    from kdbench.errors import StudyError

    problems: list[str] = []
    for path in study_files:
        try:
            study = load(path, overrides)
            typer.echo(f"{path}: ok ({study.study}: {len(study.methods)} methods)")
        except StudyError as error:
            problems += error.problems
    if problems:
        raise StudyError(problems)


@app.command(rich_help_panel=PANEL)
def plan(
    study_file: StudyFile,
    overrides: Set = None,
    results: Results = Path("results"),
    probe: Annotated[bool, typer.Option(help="Measure a few steps to estimate the time.")] = True,
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """List exactly what would run, and estimate how long it takes."""
    from kdbench.estimate import describe_plan

    study = load(study_file, overrides)
    report = describe_plan(study, results / study.study, probe=probe)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else report.text())


@app.command(rich_help_panel=PANEL)
def status(
    study: Annotated[Path, typer.Argument(help=STUDY)],
    results: Results = Path("results"),
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Say how far a study is, without touching it."""
    from kdbench.session import study_status

    found = study_status(folder_of(study, results))
    typer.echo(
        json.dumps(found, indent=1) if as_json else "\n".join(f"{name}: {value}" for name, value in found.items())
    )


@app.command(rich_help_panel=PANEL)
def ui(
    study: Annotated[Path, typer.Argument(help=STUDY)],
    results: Results = Path("results"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
    plugins: Plugins = None,
) -> None:
    """Open MLflow's UI on a study."""
    from kdbench.session import mlflow_uri, study_of
    from kdbench.track.server import serve

    folder = folder_of(study, results)
    raise typer.Exit(serve(folder, mlflow_uri(study_of(folder)), host, port, typer.echo))


@app.command(rich_help_panel=PANEL)
def sync(
    study: Annotated[Path, typer.Argument(help=STUDY)], results: Results = Path("results"), plugins: Plugins = None
) -> None:
    """Rebuild the MLflow mirror of a study from its records; what is there already is not written twice."""
    from kdbench.session import sync_study

    typer.echo(sync_study(folder_of(study, results)))
