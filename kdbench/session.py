"""One `kdbench run`: lock, resume, run, mirror, report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from kdbench import data
from kdbench.errors import DataError, KdbenchError
from kdbench.handover import Hashes, import_checkpoints, share_teachers, stale_plugins, take_teachers
from kdbench.labels import seconds_label
from kdbench.record import Job, TrialRecord, canonical_json, metric
from kdbench.search.agenda import STAGES, Agenda
from kdbench.search.budget import Budget
from kdbench.search.drive import Desk, Executor
from kdbench.store import Store, write_json
from kdbench.study.schema import Data, Study
from kdbench.terminal import Tally, view_for

FAILED, INTERRUPTED = 1, 130
PHASES_OF = {"teachers": ("teacher",), "search": ("source", "search"), "final": ("final",), "latency": ("latency",)}


class MirrorListener:
    """Hands records to the MLflow mirror as they come, but nothing while latency is measured."""

    def __init__(self, store: Store, uri: str | None) -> None:
        from kdbench.track.background import BackgroundMirror

        self.mirror = BackgroundMirror(store.folder, uri)
        self.held: list[TrialRecord] = []

    def started(self, job: Job) -> None:
        """Let the mirror finish before a latency measurement: it would share the processor."""
        if job.spec.phase == "latency":
            self.mirror.settle()

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        """Nothing: curves are written at the end, in one call."""

    def ended(self, record: TrialRecord) -> None:
        """Queue the record for MLflow."""
        if record.spec.phase == "latency":
            self.held.append(record)
        else:
            self.mirror.write(record)

    def close(self) -> tuple[str, ...]:
        """Write what was held back; return the keys that MLflow lacks."""
        for record in self.held:
            self.mirror.write(record)
        return self.mirror.close()


def run_study(
    study: Study,
    source: str,
    folder: Path,
    budget_s: float | None,
    until: str,
    console: Console,
    as_json: bool,
    stamp: Path | None = None,
) -> int:
    """Run a study until its end, its budget or Ctrl-C, then write its report; return the exit status.

    source: the study file's text, kept beside the records. until: the last stage (see agenda.STAGES). stamp: a file
    that says what the last stage made, written once the stage is complete.
    """
    if until not in STAGES:
        raise KdbenchError(f"--until: got '{until}'. Allowed: {', '.join(STAGES)}.")
    if stamp is not None and budget_s is not None:
        raise KdbenchError("--stamp marks a stage as complete, and --budget may end it before. Give one of them.")
    store = Store(folder)
    try:
        with store.lock():
            return resume(study, source, store, budget_s, until, console, as_json, stamp)
    except KeyboardInterrupt:
        say(console, [stopped(len(list(store.records_folder.glob("*.json"))))], as_json)
        return INTERRUPTED


def resume(
    study: Study, source: str, store: Store, budget_s: float | None, until: str, console: Console, as_json: bool,
    stamp: Path | None,
) -> int:  # fmt: skip
    """Go on with a study whose lock is held, then write its report; return the exit status."""
    found, messages = store.read_all()
    say(console, messages, as_json)
    hashes = check_data(study, store, found)
    store.write_study(study.to_json() | {"provenance": provenance(study)}, source)  # what loading found is part of it
    records = without_lost(found)
    say(console, stale_plugins(records), as_json)
    budget = Budget(budget_s, past=records.values())
    agenda = Agenda(study, records, lambda key: store.weights_path(key).exists(), until, budget)
    if not agenda.finished:
        say(console, take_teachers(store, agenda, hashes), as_json)
        import_checkpoints(study, store, agenda)
        execute(study, store, agenda, console, as_json)
        share_teachers(store, agenda)
    write_current(store, agenda)
    print_report(store.folder, console, as_json)
    if not agenda.finished:
        say(console, [stopped(len(agenda.records))], as_json)
        return INTERRUPTED
    if (failed := failed_teacher(agenda)) is not None:
        path = store.record_path(failed.key)
        text = f"The teacher has status '{failed.status}' ({failed.error}), so nothing could be distilled from it."
        say(console, [f"{text} Mend the cause, delete {path}, and run the same command again."], as_json)
        return FAILED
    if stamp is not None:
        write_stamp(stamp, agenda, until)
    return 0


def stopped(count: int) -> str:
    """What a person is told whose run was interrupted."""
    return f"Stopped: {count} trainings are done and kept. Run the same command again to go on."


def without_lost(records: Mapping[str, TrialRecord]) -> dict[str, TrialRecord]:
    """Records that stand. Trainings that the machine lost, and those that failed for want of a network whose record is
    gone, are done again."""

    def stands(record: TrialRecord) -> bool:
        needed = [key for key in (record.spec.teacher, record.spec.init, *record.spec.members) if key is not None]
        orphan = record.status == "failed" and any(key not in records for key in needed)
        return record.status != "lost" and not orphan

    return {key: record for key, record in records.items() if stands(record)}


def failed_teacher(agenda: Agenda) -> TrialRecord | None:
    """The teacher's record, if it did not finish."""
    record = agenda.records.get(agenda.teacher.key) if agenda.teacher is not None else None
    return record if record is not None and record.status != "finished" else None


def write_stamp(path: Path, agenda: Agenda, stage: str) -> None:
    """Write what a stage made: how many trainings by status, and a digest of their records, for pipelines such as DVC.

    Raise KdbenchError while trainings of the stage, or of one before it, are missing.
    """
    if missing := agenda.left():
        raise KdbenchError(f"{path}: not written, for {missing} trainings up to the stage '{stage}' are missing.")
    keys = agenda.current()
    records = [agenda.records[key] for phase in PHASES_OF[stage] for key in sorted(keys[phase])]
    content = canonical_json([record.to_json() for record in records])
    stamp = {
        "study": agenda.study.study,
        "stage": stage,
        "trainings": dict(Counter(record.status for record in records)),
        "records_sha256": hashlib.sha256(content.encode()).hexdigest(),
    }
    write_json(path, stamp)


def write_current(store: Store, agenda: Agenda) -> None:
    """Say which records belong to the study as it stands, and how networks of its own are called."""
    names = {"networks": agenda.network_names()} if agenda.study.networks else {}
    write_json(store.folder / "current.json", {**agenda.current(), **names})


def data_sections(study: Study) -> dict[str, Data]:
    """The data of the study, of its source task, and of those networks that have data of their own, by their place."""
    sections = {"data": study.data}
    if study.source is not None:
        sections["source"] = study.source.data
    named = {"teacher": study.teacher, **{f"networks.{name}": section for name, section in study.networks.items()}}
    own = {name: section.data for name, section in named.items() if section is not None and section.data is not None}
    return sections | own


def provenance(study: Study) -> str:
    """What the data sets of a study say about themselves: `cifar10: Krizhevsky 2009; ...`."""
    configs = {data.label(section.config()): section.config() for section in data_sections(study).values()}
    notes = {name: data.describe(config).note.rstrip(".") for name, config in configs.items()}
    return "; ".join(f"{name}: {note}" for name, note in notes.items() if note)


def check_data(study: Study, store: Store, records: Mapping[str, TrialRecord]) -> dict[str, Hashes]:
    """Fetch what is missing, and store the splits with their hashes, the test split's too.

    Returns the hashes of the data and of its test split by the canonical JSON of a data configuration. Raise DataError
    if data are missing, or if earlier records of this study were trained or tested on other data.
    """
    splits: dict[str, Any] = {}
    hashes: dict[str, Hashes] = {}
    for name, section in data_sections(study).items():
        config = section.config()
        loaded = data.load(config, test=name == "data")
        splits[name] = data.split_indices(loaded)
        now = {"data_hash": loaded.hash, "test_hash": loaded.test_hash}
        hashes.setdefault(canonical_json(config), (loaded.hash, loaded.test_hash))
        for record in (r for r in records.values() if r.spec.data == config):
            for kind, value in now.items():
                if (then := record.environment.get(kind)) is not None and value is not None and then != value:
                    raise DataError(
                        f"{store.record_path(record.key)} has {kind} {then[:12]}, but '{data.label(config)}' now has "
                        f"{value[:12]}: the images or labels changed. Put the old ones back, or give the study "
                        "another name."
                    )
    write_json(store.folder / "splits.json", splits)
    return hashes


def execute(study: Study, store: Store, agenda: Agenda, console: Console, as_json: bool) -> None:
    """Run the agenda on the executor that the study asks for, with its listeners."""
    with ExitStack() as stack:
        executor = executor_for(study, store)
        stack.callback(executor.close)
        agenda.budget.workers = executor.workers
        view = view_for(Tally(agenda, executor.workers), console, as_json)
        stack.enter_context(view)
        desk = Desk(agenda, store, [view])
        if mirrored(study):
            mirror = MirrorListener(store, mlflow_uri(study))
            mirror.mirror.sync(agenda.records.values())
            desk.listeners.append(mirror)
            stack.callback(close_mirror, mirror, store, console, as_json)
        try:
            executor.run(desk)
        except KeyboardInterrupt:
            desk.stopping = True


def executor_for(study: Study, store: Store) -> Executor:
    """Ray, or this process where the study says so."""
    if study.resources.executor == "local":
        from kdbench.search.local import LocalExecutor

        return LocalExecutor(study.resources, store)
    try:
        from kdbench.search.place.executor import RayExecutor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise KdbenchError(
            "Ray is not installed. Install it with: pip install 'kdbench[ray]', or run in this process with "
            "--set resources.executor=local"
        ) from error
    return RayExecutor(study.resources, store.folder)


def mirrored(study: Study) -> bool:
    """Whether the study has an MLflow mirror: not where it is off, nor by default where MLflow is not installed."""
    from kdbench.track import available

    return study.track.mlflow != "off" and (study.track.mlflow != "auto" or available())


def mlflow_uri(study: Study) -> str | None:
    """Where the mirror is, or None for the store beside the records. Raise KdbenchError where it is off."""
    if study.track.mlflow == "off":
        raise KdbenchError(f"study '{study.study}' has track.mlflow: off, so it has no mirror.")
    return None if study.track.mlflow == "auto" else study.track.mlflow


def close_mirror(listener: MirrorListener, store: Store, console: Console, as_json: bool) -> None:
    """Flush the mirror within a bound, and say what is missing."""
    missing = listener.close()
    if missing:
        text = f"MLflow lacks {len(missing)} records; write them with: kdbench sync {store.folder}"
        say(console, [text], as_json)


def print_report(folder: Path, console: Console, as_json: bool) -> None:
    """Write the report and say where it lies."""
    from kdbench.report import summary, write_report

    if not any((folder / "records").glob("*.json")):
        return
    paths = write_report(folder)
    if not as_json:
        console.print(summary(folder), markup=False)
        console.print(f"Leaderboard: {folder / 'leaderboard.html'} ({len(paths)} files in {folder})")


def report_study(folder: Path, console: Console) -> None:
    """Write the report of a folder again, from its records as they are now."""
    study = study_of(folder)
    store = Store(folder)
    with store.lock():
        write_current(store, Agenda(study, read_only(folder), lambda key: True))
        print_report(folder, console, as_json=False)


def say(console: Console, lines: list[str], as_json: bool) -> None:
    """Print lines for a person; on standard error where standard output is for machines."""
    out = Console(stderr=True, highlight=False, soft_wrap=True) if as_json else console
    for line in lines:
        out.print(line, markup=False)


def study_of(folder: Path) -> Study:
    """The study that a folder was last run with."""
    stored = Store(folder).read_study()
    if stored is None:
        raise KdbenchError(f"{folder} is not the folder of a study: it has no study.json. Run the study first.")
    try:
        return Study.model_validate({name: value for name, value in stored.items() if name in Study.model_fields})
    except ValidationError as error:
        raise KdbenchError(
            f"{folder / 'study.json'} was written by another version of kdbench ({error.error_count()} fields differ). "
            "Run `kdbench run` on the study file again: it writes study.json anew and keeps every record that fits."
        ) from error


def study_status(folder: Path) -> dict[str, Any]:
    """How far a study is: counts by phase and status, and the best validation result of each row."""
    records = read_only(folder)
    study = study_of(folder)
    agenda = Agenda(study, records, lambda key: True)
    objective = study.search.objectives[0]
    better = max if metric(objective).direction == "max" else min
    best: dict[str, float] = {}
    for record in agenda.own_search():
        value = record.result.get(objective)
        if record.status == "finished" and value is not None:
            best[record.spec.row] = better(best.get(record.spec.row, value), value)
    return {
        "study": study.study,
        "done": dict(Counter(record.spec.phase for record in records.values())),
        "status": dict(Counter(record.status for record in records.values())),
        "to_go": agenda.left(),
        "finished": agenda.finished,
        "trained": seconds_label(sum(record.wall_s for record in records.values())),
        f"best_{objective}": best,
    }


def read_only(folder: Path) -> dict[str, TrialRecord]:
    """All records of a folder, without setting any aside. Raise RecordError for one that cannot be read."""
    store = Store(folder)
    return {path.stem: store.read(path.stem) for path in sorted(store.records_folder.glob("*.json"))}


def sync_study(folder: Path) -> str:
    """Bring the MLflow mirror up to the records; return a line that says what was done."""
    from kdbench.track.mirror import Mirror

    study = study_of(folder)
    with Store(folder).lock():
        done = Mirror(folder, mlflow_uri(study)).sync(read_only(folder).values())
    return f"MLflow: {done.created} runs created, {done.updated} updated, {done.unchanged} unchanged."
