"""How a study stands, read from its folder without touching it: what is done, what runs now, what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdbench.errors import KdbenchError
from kdbench.labels import plural, seconds_label
from kdbench.record import TrialRecord, TrialSpec, metric
from kdbench.record_index import RecordIndex
from kdbench.search.agenda import Agenda
from kdbench.store import Store
from kdbench.study.schema import Study
from kdbench.terminal import describe

SHORT = 8  # digits of a key that are enough to name it here
WORST = ("lost", "failed", "timed_out", "diverged")


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


def read_only(folder: Path, glance: bool = False) -> dict[str, TrialRecord]:
    """All records of a folder, without setting any aside. Raise RecordError for one that cannot be read.

    glance: of a large study, do not open files that were read before and whose size and time of change are the same.
    """
    store = Store(folder)
    stamps = store.stamps()
    index = RecordIndex(store.records_folder, len(stamps))
    found = {key: (glance and index.at_a_glance(key, stamp)) or store.read(key, index) for key, stamp in stamps.items()}
    index.save()
    return found


def under_way(folder: Path) -> dict[str, str | None]:
    """By key, what the trainings are that were begun and have no record; None where the study does not tell."""
    begun = {note.parent.name for note in (folder / "work").glob("*/starts.txt")}
    begun = {key for key in begun if not (folder / "records" / f"{key}.json").exists()}
    known = asked_for(folder) if begun else {}
    return {key: describe(known[key]) if key in known else None for key in sorted(begun)}


def asked_for(folder: Path) -> dict[str, TrialSpec]:
    """The trainings that the study asks for as far as they are known by now, by key; none where that cannot be told."""
    try:
        agenda = Agenda(study_of(folder), read_only(folder, glance=True), lambda key: True)
    except KdbenchError:
        return {}
    students = agenda.known()
    specs = [*agenda.fixed.values(), *agenda.needed_by(students).values(), *students]
    return {spec.key: spec for spec in [*specs, *agenda.evaluations(), *agenda.latencies()]}


def study_status(folder: Path) -> dict[str, Any]:
    """How far a study is: counts by phase and status, the best validation result of each row, and whether it runs."""
    records = read_only(folder, glance=True)
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
        "running": Store(folder).holder(),
        "under_way": under_way(folder),
        "trained": seconds_label(sum(record.wall_s for record in records.values())),
        f"best_{objective}": best,
    }


def status_text(status: Mapping[str, Any], study: Path) -> str:
    """What `study_status` found, for a person. study: as it was given on the command line."""
    shown = dict(status)
    begun, by = shown.pop("under_way"), shown.pop("running")
    shown["running"] = f"yes, by {by}" if by else "no"
    for key, training in begun.items():
        name = f"{'under way' if by else 'interrupted'} {key[:SHORT]}"
        shown[name] = f"{training or 'a training'} (all about it: kdbench logs {key[:SHORT]})"
    lines = [f"{name}: {value}" for name, value in shown.items()]
    if count := sum(number for name, number in status["status"].items() if name != "finished"):
        lines.append(f"{plural(count, 'training')} did not finish. Which, and why: kdbench status {study} --failed")
    return "\n".join(lines)


def failures_of(folder: Path) -> list[dict[str, Any]]:
    """The trainings that did not finish, those of the machine first: key, what it was, status, error, attempts, and
    whether it belongs to the study as it stands."""
    records = read_only(folder, glance=True)
    keys = Agenda(study_of(folder), records, lambda key: True).current()
    current = {key for phase in keys.values() for key in phase}
    found = sorted(
        (record for record in records.values() if record.status != "finished"),
        key=lambda record: (WORST.index(record.status), record.started, record.key),
    )
    return [
        {
            "key": record.key,
            "training": describe(record.spec),
            "status": record.status,
            "error": record.error,
            "attempts": record.attempts,
            "current": record.key in current,
        }
        for record in found
    ]


def failures_text(found: Sequence[Mapping[str, Any]], study: Path) -> str:
    """What `failures_of` found, for a person, with the commands that help. study: as given on the command line."""
    if not found:
        return "Every training that was begun has finished, or is under way."
    lines = [f"{plural(len(found), 'training')} did not finish:"]
    for one in found:
        tried = f", {one['attempts']} attempts" if one["attempts"] > 1 else ""
        left = "" if one["current"] else ", left over from before an edit of the study"
        lines.append(f"{one['key'][:SHORT]}  {one['status']}  {one['training']}{tried}{left}")
        lines.append(f"{'':{SHORT}}  {one['error']}")
    file = study if study.is_file() else "STUDY_FILE"
    words = dict.fromkeys(str(one["status"]) for one in found)
    return "\n".join(
        [
            *lines,
            f"All about one: kdbench logs {found[0]['key'][:SHORT]}",
            f"Again, once the cause is mended: kdbench run {file} "
            f"{' '.join(f'--rerun {word}' for word in words)}    (or --rerun KEY)",
        ]
    )
