"""One training as plain values: what `kdbench logs KEY --json` prints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from kdbench.errors import CheckpointError
from kdbench.labels import model_label
from kdbench.logs.find import Traces
from kdbench.record import TrialRecord
from kdbench.store import Store
from kdbench.terminal import describe

SAID_LINES = 20  # of what each process of a training has said: the last ones
NOTES = {"error.txt": "the worker's last words", "set_aside.txt": "checkpoint set aside", "hung.txt": "where it hung"}


def story_of(found: Traces) -> dict[str, Any]:
    """All about one training, as plain values: what `kdbench logs KEY --json` prints."""
    spec, record = found.spec, found.record
    by = Store(found.folder).holder()
    story: dict[str, Any] = {
        "key": found.key,
        "folder": str(found.folder),
        "training": None if spec is None else describe(spec),
        "status": _status(found, by),
        "model": None if spec is None else model_label(spec.model),
        "settings": {} if spec is None else dict(spec.hyper),
        "record": None if record is None else _facts(record),
        "damaged": found.damaged,
        "curves": {} if record is None else dict(record.curves),
        "under_way": None if found.work is None else _work(found.work),
        "superseded": [{"file": _within(found, path), **_facts(record)} for path, record in found.earlier],
        "quarantined": [_within(found, path) for path in found.quarantined],
    }
    if record is None and story["under_way"]:
        story["curves"] = story["under_way"].pop("curves")
    return story


def _within(found: Traces, path: Path) -> str:
    return path.relative_to(Store(found.folder).folder).as_posix() if path.is_absolute() else path.as_posix()


def _status(found: Traces, by: str | None) -> str:
    if found.record is not None:
        return found.record.status
    if found.work is not None:
        return f"under way, in the run of {by}" if by else "interrupted: the next run goes on with it"
    if found.damaged is not None:
        return "its record cannot be read: the next run sets it aside and trains again"
    return "no record: the next run trains it again, if the study still asks for it"


def _facts(record: TrialRecord) -> dict[str, Any]:
    """How one record came about."""
    environment = record.environment
    kept = {name: environment[name] for name in ("retries", "starts", "checkpoint_set_aside") if name in environment}
    return {
        "status": record.status, "error": record.error, "attempts": record.attempts, "started": record.started,
        "ended": record.ended, "wall_s": record.wall_s, "result": dict(record.result),
        "traceback": environment.get("traceback"), **kept,
    }  # fmt: skip


def _work(folder: Path) -> dict[str, Any]:
    """A training that has no record yet: when it was started, what its checkpoint holds, and its notes."""
    starts = folder / "starts.txt"
    facts: dict[str, Any] = {"starts": starts.read_text().split() if starts.exists() else [], "curves": {}}
    checkpoint = folder / "checkpoint.safetensors"
    facts["checkpoint"] = None
    if checkpoint.exists():
        from kdbench.train.checkpoint import load  # which imports torch

        state = checkpoint.stat()
        facts["checkpoint"] = {"bytes": state.st_size, "age_s": round(max(time.time() - state.st_mtime, 0.0), 1)}
        try:
            _, header = load(checkpoint)
        except CheckpointError as error:
            facts["checkpoint"]["damaged"] = str(error)
        else:
            facts["checkpoint"] |= {name: header[name] for name in ("epochs_done", "wall_s") if name in header}
            facts["curves"] = header.get("curves", {})
    facts["notes"] = {
        what: (folder / name).read_text(errors="replace") for name, what in NOTES.items() if (folder / name).exists()
    }
    facts["processes"] = {
        path.stem.removeprefix("process"): path.read_text(errors="replace").splitlines()[-SAID_LINES:]
        for path in sorted(folder.glob("process*.log"), key=lambda path: (len(path.name), path.name))
    }
    return facts


def brief(found: Traces) -> dict[str, Any]:
    """One training of several, enough to choose it."""
    record, spec = found.record, found.spec
    return {
        "key": found.key, "folder": str(found.folder), "training": None if spec is None else describe(spec),
        "status": "no record" if record is None else record.status, "attempts": record.attempts if record else None,
        "wall_s": record.wall_s if record else None, "error": record.error if record else None,
    }  # fmt: skip
