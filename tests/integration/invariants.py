"""What holds of a study's folder however often its run was killed. Each check returns what is wrong, a line each."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import psutil

from kdbench.record import TrialRecord
from kdbench.search.agenda import Agenda
from kdbench.session import read_only, study_of, sync_study
from kdbench.store import Store
from kdbench.track.mirror import Mirror, SyncReport
from kdbench.track.payload import KEY, milliseconds, payload_of

TIMES = ("train_wall_s", "train_device_s", "epoch_wall_s")
FACTS = ("data_hash", "test_hash", "teacher_hash", "init_hash", "precision", "threads")
GONE_S = 60.0  # in which processes end whose run is over


def outcome(record: TrialRecord) -> dict[str, Any]:
    """What a record says, without times and attempts. A latency is a time: it only has to be there."""
    timed = record.spec.phase == "latency"
    return {
        "status": record.status,
        "result": sorted(record.result) if timed else {k: v for k, v in record.result.items() if k not in TIMES},
        "curves": {k: v for k, v in record.curves.items() if k not in TIMES},
        "environment": {name: record.environment.get(name) for name in FACTS},
    }


def unlike(folder: Path, reference: Path) -> list[str]:
    """Trainings of which the two folders do not say the same, to the last bit."""
    found, wanted = read_only(folder), read_only(reference)
    lines = [f"{key}: a training that the undisturbed run has not" for key in sorted(set(found) - set(wanted))]
    for key, record in sorted(wanted.items()):
        if key not in found:
            lines.append(f"{key}: missing, a {record.spec.phase} training")
            continue
        now, then = outcome(found[key]), outcome(record)
        for name in (name for name in then if now[name] != then[name]):
            lines.append(f"{key}: {name} is {_short(now[name])}, undisturbed {_short(then[name])}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 300 else f"{text[:300]}..."


def too_often(ended: Mapping[str, int], again: Mapping[str, int]) -> list[str]:
    """Trainings that were filed more often than once and than their records were damaged or lost. ended: how often each
    key was filed; again: for how many of these times there was a reason to do it again."""
    return [
        f"{key}: finished {count} times, and there was a reason for {again.get(key, 0)} more than one"
        for key, count in sorted(ended.items())
        if count > 1 + again.get(key, 0)
    ]


def unsettled(folder: Path) -> list[str]:
    """What Optuna, rebuilt from the records as the next proposal would do it, does not know the end of."""
    study, records = study_of(folder), read_only(folder)
    agenda = Agenda(study, records, lambda key: True)
    lines = [] if agenda.finished else [f"{agenda.left()} trainings are left to be done"]
    create: Callable[..., optuna.Study] = optuna.create_study
    for stream in agenda.streams:
        made: list[optuna.Study] = []

        def note(made: list[optuna.Study] = made, **arguments: Any) -> optuna.Study:
            made.append(create(**arguments))
            return made[-1]

        with mock.patch.object(optuna, "create_study", note):
            agenda.spec_of(stream, study.search.trials)
        states = [trial.state for rebuilt in made for trial in rebuilt.trials[:-1]]  # the last one is just asked for
        name = " ".join(map(str, stream.name))
        if made and len(states) != study.search.trials:
            lines.append(f"{name}: Optuna knows {len(states)} trials of {study.search.trials}")
        lines += [f"{name}: trial {n} is RUNNING" for n, s in enumerate(states) if s == optuna.trial.TrialState.RUNNING]
    return lines


def unmirrored(folder: Path) -> list[str]:
    """Where MLflow differs from the records after `kdbench sync`, and whether a second one would change anything."""
    sync_study(folder)
    records, mirror = read_only(folder), Mirror(folder)
    trained = {key: record for key, record in records.items() if record.spec.phase != "latency"}
    runs = mirror.experiment.runs()
    lines = [f"MLflow: run {r.info.run_id} is {r.info.status}" for r in runs if r.info.status == "RUNNING"]
    counts = Counter(run.data.tags[KEY] for run in runs if KEY in run.data.tags)
    lines += [f"MLflow: {counts[key]} runs of {key}" for key in sorted(set(counts) | set(trained)) if counts[key] != 1]
    lines += [f"MLflow: a run of {key}, of which there is no record" for key in sorted(set(counts) - set(trained))]
    by_key = {run.data.tags[KEY]: run for run in runs if KEY in run.data.tags}
    for key in sorted(trained.keys() & by_key.keys()):
        lines += [f"MLflow: {key}: {what}" for what in _differences(trained[key], by_key[key], mirror.experiment.name)]
    if (again := mirror.sync(records.values())) != SyncReport(0, 0, len(trained)):
        lines.append(f"MLflow: a second sync changes something: {again}")
    return lines


def _differences(record: TrialRecord, run: Any, study: str) -> Iterable[str]:
    """In what the run of a record is not what it should be."""
    wanted = payload_of(record, study)
    if run.data.params != dict(wanted.params):
        yield "other parameters"
    yield from (f"tag {name}" for name, value in wanted.tags.items() if run.data.tags.get(name) != value)
    last = {point.name: point.value for point in wanted.points}
    yield from (
        f"{name} is {run.data.metrics.get(name)}, the record has {value}"
        for name, value in last.items()
        if run.data.metrics.get(name) != value
    )
    if (run.info.status, run.info.end_time) != (wanted.status, milliseconds(record.ended)):
        yield f"status {run.info.status}, ended {run.info.end_time}"


def left_behind(folder: Path, damaged: Collection[str]) -> list[str]:
    """What a run that is over must not leave. damaged: names of the files that were damaged on purpose."""
    store = Store(folder)
    lines = [f"the lock is held by {by}"] if (by := store.holder()) else []
    lines += [f"work/{path.name} is left" for path in sorted((store.folder / "work").glob("*"))]
    for path in sorted(store.folder.glob("*/quarantine/*")):
        if f"{path.name.split('.')[0]}{path.suffix}" not in damaged:
            lines.append(f"{path.relative_to(store.folder)} was set aside, and nobody had damaged it")
    return lines


def alive(name: str, value: str, seconds: float = GONE_S) -> list[str]:
    """Processes that still live after so many seconds, of those that carry a variable in their environment."""
    limit = time.monotonic() + seconds
    while (found := carrying(name, value)) and time.monotonic() < limit:
        time.sleep(0.2)
    lines = []
    for one in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            lines.append(f"process {one.pid} lives on: {' '.join(one.cmdline())[:100]}")
    return lines


def carrying(name: str, value: str) -> list[psutil.Process]:
    """Processes that carry a variable in their environment, but not this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # ended meanwhile, or not ours
            own = process.pid != os.getpid() and process.environ().get(name) == value
            if own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


CHECKS: dict[str, str] = {
    "results": "finished records equal those of the undisturbed run, bit for bit",
    "once": "each key finished once",
    "optuna": "no Optuna trial left RUNNING",
    "mlflow": "MLflow equals the records after `kdbench sync`",
    "left": "no lock held, work/ empty, nothing set aside but what was damaged",
    "processes": "no process left",
    "waits": "no wait without end, no exit or traceback that nobody asked for",
}
