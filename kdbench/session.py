"""One `kdbench run`: lock, resume, run, mirror, report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from kdbench.data.corruptions import require
from kdbench.data_check import check_data, provenance
from kdbench.errors import KdbenchError, RecordError
from kdbench.handover import import_checkpoints, share_teachers, stale_plugins, take_teachers
from kdbench.record import Job, TrialRecord, canonical_json
from kdbench.redact import printable, shown
from kdbench.rerun import set_aside, to_run_again
from kdbench.search.agenda import STAGES, Agenda
from kdbench.search.budget import Budget
from kdbench.search.drive import Desk, Executor
from kdbench.search.stop import INTERRUPTED, Stop
from kdbench.status import SHORT, read_only, study_of, study_status
from kdbench.store import Store, write_json
from kdbench.study.diff import accepted, check_edit
from kdbench.study.plan import evaluation_settings
from kdbench.study.schema import Study
from kdbench.study.yaml_source import Tree
from kdbench.terminal import Tally, view_for

if TYPE_CHECKING:
    from kdbench.train.sound import SoundWeights

__all__ = ["read_only", "report_study", "run_study", "study_of", "study_status", "sync_study"]

FAILED = 1
PHASES_OF = {
    "teachers": ("teacher",), "search": ("source", "search"), "final": ("final", "evaluation"), "latency": ("latency",),
}  # fmt: skip


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


@dataclass(frozen=True)
class Order:
    """What one call of `kdbench run` asks for.

    source: the study file's text, kept beside the records. budget_s: end by then. until: the last stage (see
    agenda.STAGES). stamp: a file that says what the last stage made, written once the stage is complete. tree: where
    the study's fields stand. rerun: words or keys that name trainings to be run again (see rerun.select). report:
    whether tables and figures are written at the end.
    """

    study: Study
    source: str
    budget_s: float | None = None
    until: str = STAGES[-1]
    stamp: Path | None = None
    tree: Tree | None = None
    rerun: Sequence[str] = ()
    report: bool = True

    def __post_init__(self) -> None:
        if self.until not in STAGES:
            raise KdbenchError(f"--until: got '{self.until}'. Allowed: {', '.join(STAGES)}.")
        if self.stamp is not None and self.budget_s is not None:
            raise KdbenchError("--stamp marks a stage as complete, and --budget may end it before. Give one of them.")


def run_study(
    study: Study,
    source: str,
    folder: Path,
    budget_s: float | None,
    until: str,
    console: Console,
    as_json: bool,
    stamp: Path | None = None,
    *,
    tree: Tree | None = None,
    rerun: Sequence[str] = (),
    report: bool = True,
) -> int:
    """Run a study until its end, its budget or Ctrl-C, then write its report; return the exit status.

    Arguments: see Order. Raise StudyError, before anything is touched, if the study was edited in a way that finished
    trainings of the folder do not fit.
    """
    from kdbench.train.engine import override  # which imports torch, as all that trains does

    override()  # what KDBENCH_ENGINE cannot say is an error here, and not one of every training
    order = Order(study, source, budget_s, until, stamp, tree, rerun, report)
    store, stop = Store(folder), Stop()
    try:
        with stop.listening(), store.lock():
            return stop.status(resume(order, store, console, as_json))
    except KeyboardInterrupt:
        say(console, [stopped(len(list(store.records_folder.glob("*.json"))))], as_json)
        return stop.status(INTERRUPTED)


def resume(order: Order, store: Store, console: Console, as_json: bool) -> int:
    """Go on with a study whose lock is held, then write its report; return the exit status."""
    study = order.study
    say(console, edited(study, store, order.tree), as_json)
    found, messages = store.read_all()
    say(console, messages, as_json)
    if settings := evaluation_settings(study):
        require(settings.get("corruptions", {}).get("names", ()))
    hashes = check_data(study, store, found)
    aside, messages = set_aside(store, found, order.rerun)
    say(console, messages, as_json)
    store.write_study(study.to_json() | {"provenance": provenance(study)}, order.source)  # what loading found is part
    records = without_lost({key: record for key, record in found.items() if key not in aside})
    say(console, stale_plugins(records), as_json)
    budget = Budget(order.budget_s, past=records.values())
    again = to_run_again(store, found, records)
    from kdbench.train.sound import SoundWeights

    sound = SoundWeights(store, lambda text: say(console, [text], as_json))
    agenda = Agenda(study, records, sound, order.until, budget, again)
    ran = not agenda.finished
    if ran:
        say(console, take_teachers(store, agenda, hashes, aside), as_json)
        import_checkpoints(study, store, agenda)
        execute(study, store, agenda, sound, console, as_json)
        share_teachers(store, agenda)
        say(console, filed_again(store, agenda), as_json)
    write_current(store, agenda)
    if order.report:
        print_report(store.folder, console, as_json)
    if ran and agenda.finished and mirrored(study):
        say(console, published(store.folder, study), as_json)
    return concluded(order, store, agenda, console, as_json)


def filed_again(store: Store, agenda: Agenda) -> list[str]:
    """Set aside the records whose files were damaged since they were read or written, and file them anew: this run
    still has them in memory. Return what to say of it."""
    there = {path.stem for path in store.records_folder.glob("*.json")}
    found, messages = store.read_all("what this run remembers of it is filed again")
    for key in sorted((there - found.keys()) & agenda.records.keys()):
        store.write(agenda.records[key])
    return messages


def concluded(order: Order, store: Store, agenda: Agenda, console: Console, as_json: bool) -> int:
    """Say what is left to do, or write the stamp of a stage that is complete; return the exit status."""
    if not agenda.finished:
        say(console, [stopped(len(agenda.records))], as_json)
        return INTERRUPTED
    if (failed := failed_teacher(agenda)) is not None:
        again = f"run the same command with --rerun {failed.key[:SHORT]}"
        text = f"The teacher has status '{failed.status}' ({failed.error}), so nothing could be distilled from it."
        say(console, [f"{text} Mend the cause, and {again}."], as_json)
        return FAILED
    if order.stamp is not None:
        write_stamp(order.stamp, agenda, order.until)
    return 0


def edited(study: Study, store: Store, tree: Tree | None) -> list[str]:
    """What to say of a study that differs from the one that its folder was run with.

    Raise StudyError if finished trainings of the folder do not fit it any more.
    """
    if not (store.folder / "study.json").exists():
        return []
    try:
        before = study_of(store.folder)
    except KdbenchError as error:
        return [f"Which fields of the study were edited cannot be told, and every record that fits is kept: {error}"]
    changes = accepted(before, study)
    if not changes:
        return []
    check_edit(before, study, sound_records(store), store.folder, tree)
    return [f"Edited since the last run: {'; '.join(changes)}."]


def sound_records(store: Store) -> dict[str, TrialRecord]:
    """All records of a folder that can be read."""
    found = {}
    for path in store.records_folder.glob("*.json"):
        try:
            found[path.stem] = store.read(path.stem)
        except RecordError:
            continue  # set aside with a message when the run begins
    return found


def stopped(count: int) -> str:
    """What a person is told whose run was interrupted."""
    return f"Stopped: {count} trainings are done and kept. Run the same command again to go on."


def without_lost(records: Mapping[str, TrialRecord]) -> dict[str, TrialRecord]:
    """Records that stand. Trainings that the machine lost, and those that failed for want of a network that is lost or
    whose record is gone, are done again; and what failed for want of these in turn."""
    kept = {key: record for key, record in records.items() if record.status != "lost"}

    def orphan(record: TrialRecord) -> bool:
        needed = [key for key in (record.spec.teacher, record.spec.init, *record.spec.members) if key is not None]
        return record.status == "failed" and any(key not in kept for key in needed)

    while orphans := [key for key, record in kept.items() if orphan(record)]:
        for key in orphans:
            del kept[key]
    return kept


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
    records = [agenda.records[key] for phase in PHASES_OF[stage] for key in sorted(keys.get(phase, []))]
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


def execute(study: Study, store: Store, agenda: Agenda, sound: SoundWeights, console: Console, as_json: bool) -> None:
    """Run the agenda on the executor that the study asks for, with its listeners."""
    with ExitStack() as stack:
        executor = executor_for(study, store)
        stack.callback(executor.close)
        agenda.budget.workers = executor.workers
        view = view_for(Tally(agenda, executor.workers), console, as_json)
        stack.enter_context(view)
        told = partial(_tell, console, as_json)
        desk = Desk(
            agenda, store, [view], max_retries=study.resources.max_retries, say=told,
            damaged=sound.damaged,
        )  # fmt: skip
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


def published(folder: Path, study: Study) -> list[str]:
    """Show the report and the best student in MLflow, within a bound; return what to say of it."""
    from kdbench.track.publish import publish_within

    return publish_within(folder, mlflow_uri(study), read_only(folder))


def print_report(folder: Path, console: Console, as_json: bool) -> None:
    """Write the report and say where it lies."""
    from kdbench.report import write_and_sum_up

    if not any((folder / "records").glob("*.json")):
        return
    paths, text = write_and_sum_up(folder)
    if not as_json:
        console.print(printable(text), markup=False)
        console.print(f"Leaderboard: {folder / 'leaderboard.html'} ({len(paths)} files in {folder})", markup=False)


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
        out.print(shown(line), markup=False)


def _tell(console: Console, as_json: bool, line: str) -> None:
    """Say one line at once, above the table of a run under way."""
    say(console, [line], as_json)


def sync_study(folder: Path) -> str:
    """Bring the MLflow mirror up to the records and the report; return lines that say what was done."""
    from kdbench.track.mirror import Mirror
    from kdbench.track.publish import publish

    study = study_of(folder)
    with Store(folder).lock():
        records = read_only(folder)
        done = Mirror(folder, mlflow_uri(study)).sync(records.values())
        said = publish(folder, mlflow_uri(study), records)
    first = f"MLflow: {done.created} runs created, {done.updated} updated, {done.unchanged} unchanged."
    return "\n".join([first, *said])
