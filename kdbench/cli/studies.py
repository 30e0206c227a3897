"""Commands on a study: run, validate, plan, status, logs, doctor, ui, sync."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import (
    STUDY,
    AsJson,
    Plugins,
    Results,
    Set,
    StudyFile,
    app,
    console,
    folder_of,
    load,
    reading,
    seconds,
)

PANEL = "Studies"
TRAINING = "Key of a training, or its first digits; or a row: its id, STUDY/METHOD or STUDY/METHOD/STUDENT."
UNAUTHENTICATED = "KDBENCH_ALLOW_UNAUTHENTICATED_RAY"


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
    rerun: Annotated[
        list[str] | None,
        typer.Option(
            metavar="failed|lost|diverged|timed_out|KEY",
            help="Run trainings again; their old records are kept in records/superseded. May be given several times.",
        ),
    ] = None,
    unauthenticated: Annotated[
        bool,
        typer.Option(
            "--allow-unauthenticated-ray",
            help="Use a Ray cluster on other machines though whoever reaches its port can run code on them.",
        ),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write tables and figures at the end, or leave it to `report`.")
    ] = True,
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Run a study: teacher, search, final seeds, latency, report. Run it again to go on where it stopped."""
    from kdbench.session import run_study
    from kdbench.study.diff import written

    if unauthenticated:
        os.environ[UNAUTHENTICATED] = "1"  # read where the cluster is connected to, which may be another process
    limit = seconds(budget)
    study = load(study_file, overrides)
    source = study_file.read_text("utf-8-sig")
    done = run_study(
        study, source, results / study.study, limit, until, console(), as_json, stamp,
        tree=written(source, str(study_file), overrides or ()), rerun=rerun or (), report=report,
    )  # fmt: skip
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
    from kdbench.errors import StudyError
    from kdbench.estimate import describe_plan
    from kdbench.session import edited
    from kdbench.store import Store
    from kdbench.study.diff import written

    study = load(study_file, overrides)
    report = describe_plan(study, results / study.study, probe=probe)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else report.text())
    try:
        edited(
            study,
            Store(results / study.study),
            written(study_file.read_text("utf-8-sig"), str(study_file), overrides or ()),
        )
    except StudyError as error:
        typer.echo(f"`kdbench run` would refuse this:\n{error}", err=True)


@app.command(rich_help_panel=PANEL)
def status(
    study: Annotated[Path, typer.Argument(help=STUDY)],
    results: Results = Path("results"),
    failed: Annotated[bool, typer.Option("--failed", help="List the trainings that did not finish, and why.")] = False,
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Say how far a study is and whether it runs, without touching it."""
    from kdbench.redact import shown
    from kdbench.status import failures_of, failures_text, status_text, study_status

    reading()
    folder = folder_of(study, results)
    if failed:
        found = failures_of(folder)
        typer.echo(json.dumps(found, indent=1) if as_json else shown(failures_text(found, study)))
        return
    facts = study_status(folder)
    typer.echo(json.dumps(facts, indent=1) if as_json else shown(status_text(facts, study)))


@app.command(rich_help_panel=PANEL)
def logs(
    training: Annotated[str, typer.Argument(metavar="KEY|ROW", help=TRAINING, show_default=False)],
    results: Results = Path("results"),
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Print all about one training: its status, attempts, error, curves, checkpoint; or list those of a row."""
    from kdbench.logs import show

    show(training, results, as_json)


@app.command(rich_help_panel=PANEL)
def doctor(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="A study file: check what it needs, too.")
    ] = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Say what is wrong with this machine and its installation, and how to mend it. Changes nothing."""
    from kdbench.doctor import run as examine

    raise typer.Exit(examine(study_file, results, as_json))


@app.command(rich_help_panel=PANEL)
def ui(
    study: Annotated[Path, typer.Argument(help=STUDY)],
    results: Results = Path("results"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
    plugins: Plugins = None,
) -> None:
    """Open MLflow's UI on a study."""
    from kdbench.session import mlflow_uri
    from kdbench.status import study_of
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
