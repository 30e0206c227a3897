"""What MLflow shows of a study as a whole: its report, the view of its runs, and its best student as a model."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench import strict_json
from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord
from kdbench.redact import shown
from kdbench.store import Store
from kdbench.track.mirror import Mirror
from kdbench.track.mlflow import Experiment
from kdbench.track.models import register_best
from kdbench.track.parents import PARENT
from kdbench.track.payload import STUDY, Point, digest, milliseconds
from kdbench.track.view import view_tags

REPORT_RUN, REPORT = "kdbench.report_run", "kdbench.report"
NOTE, COLOUR = "mlflow.note.content", "mlflow.runColor"
MANIFEST = "manifest.json"
OF_PARENTS = ("leaderboard.md", "pareto.png")  # small; the page alone has 5 MB, so one run has the whole report
PATIENCE_S = 120.0

# Colours that are told apart by people who do not see red or green, then darker ones of the same.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a200", "#000000",
    "#004a75", "#966800", "#00674b", "#8a4f71", "#38769a", "#8b3d00", "#776900", "#666666",
)  # fmt: skip

GREY = "#a0a0a0"  # of the report, which no chart shows


def publish(folder: Path, uri: str | None, records: Mapping[str, TrialRecord]) -> list[str]:
    """Bring report, view and registered models of a study up to date; return sentences that say what is there.

    Writes nothing where nothing has changed. Raise KdbenchError where MLflow cannot be used. A student that cannot be
    registered is no error: a sentence says why.
    """
    experiment = Mirror(folder, uri).experiment
    store = Store(folder)
    with experiment.explained():
        experiment.show(view_tags())
        said = []
        if (folder / MANIFEST).exists():
            said.append(f"MLflow: the report is in the run '{_publish_report(experiment, store, records)}'.")
        _colour(experiment)
    try:
        with experiment.explained():
            name = register_best(experiment, store, records.values())
    except Exception as error:  # whatever a plug-in's network, torch.export or a registry without rights raises
        reason = shown(" ".join(str(error).split()))[:300] or type(error).__name__
        return [*said, f"MLflow: no student is registered as a model: {reason}"]
    return [*said, f"MLflow: the best student is registered: models:/{name}@best"] if name else said


def publish_within(
    folder: Path, uri: str | None, records: Mapping[str, TrialRecord], patience_s: float = PATIENCE_S
) -> list[str]:
    """As `publish`, for the end of a run: never raises, and takes at most `patience_s` seconds."""
    said: list[str] = []

    def work() -> None:
        try:
            said.extend(publish(folder, uri, records))
        except KdbenchError as error:
            said.append(f"MLflow lacks the report; write it with: kdbench sync {folder} ({shown(str(error))})")

    thread = threading.Thread(target=work, name="kdbench-mlflow-report", daemon=True)
    thread.start()
    thread.join(patience_s)
    if thread.is_alive():
        return [f"MLflow does not answer, and lacks the report; write it later with: kdbench sync {folder}"]
    return said


def _publish_report(experiment: Experiment, store: Store, records: Mapping[str, TrialRecord]) -> str:
    """Attach the files of the report to a run of their own, and the table and the figure to each parent run."""
    folder = store.folder
    listed = strict_json.read(folder / MANIFEST).get("report", {})
    content = digest({"manifest": strict_json.read(folder / MANIFEST)})
    name, runs = f"report: {experiment.name}", experiment.runs()
    found = [run for run in runs if REPORT_RUN in run.data.tags]
    run = found[0] if found else _report_run(experiment, name, records)
    if run.data.tags.get(REPORT) != content:
        with tempfile.TemporaryDirectory(prefix="kdbench-report-") as place:
            for file in (MANIFEST, *listed):
                if (folder / file).is_file():
                    shutil.copyfile(folder / file, Path(place) / Path(file).name)
            experiment.attach_tree(run.info.run_id, Path(place), "report")
        counts = Counter(record.status for record in records.values())
        points = [Point(f"trainings_{status}", float(n), _ended(records), 0) for status, n in sorted(counts.items())]
        experiment.end(run.info.run_id, "FINISHED", _ended(records))
        experiment.log(run.info.run_id, points, tags={NOTE: _note(folder), REPORT: content})  # last: all is there
    for parent in runs:
        if PARENT in parent.data.tags and parent.data.tags.get(REPORT) != content:
            for file in OF_PARENTS:
                if (folder / file).is_file():
                    experiment.attach(parent.info.run_id, folder / file, "report")
            experiment.log(parent.info.run_id, tags={REPORT: content})
    return name


def _report_run(experiment: Experiment, name: str, records: Mapping[str, TrialRecord]) -> Any:
    """A new run for the report. It begins when the last training ended, so it stands above all others."""
    tags = {REPORT_RUN: experiment.name, STUDY: experiment.name, COLOUR: GREY}
    return experiment.create(name, _ended(records), tags)


def _ended(records: Mapping[str, TrialRecord]) -> int:
    """When the last training ended, in UTC milliseconds since 1970."""
    return max((milliseconds(record.ended) for record in records.values()), default=0)


def _note(folder: Path) -> str:
    """The main tables as Markdown, which MLflow shows as the description of the run."""
    text = (folder / "leaderboard.md").read_text("utf-8") if (folder / "leaderboard.md").exists() else ""
    tables = text.partition("\n### ")[0].strip()
    return f"{tables}\n\nThe whole report is under Artifacts, `report/leaderboard.html`." if tables else ""


def _colour(experiment: Experiment) -> None:
    """Give each parent run a colour of its own; MLflow draws them by a hash of the run, and several alike."""
    parents = [run for run in experiment.runs() if PARENT in run.data.tags]
    for place, run in enumerate(sorted(parents, key=lambda run: str(run.data.tags[PARENT]))):
        colour = COLOURS[place % len(COLOURS)]
        if run.data.tags.get(COLOUR) != colour:
            experiment.log(run.info.run_id, tags={COLOUR: colour})
