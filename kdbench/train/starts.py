"""When a training was started: a note in its work folder, which outlives the process."""

from __future__ import annotations

import datetime
from pathlib import Path

from kdbench.train.faults import fault_of


def starts_of(folder: Path) -> list[str]:
    """Times at which a training was started, the oldest first."""
    path = folder / "starts.txt"
    return path.read_text().split() if path.exists() else []


def note_start(folder: Path) -> list[str]:
    """Add now to the times at which a training was started, and return them all; on a full disk, for this time."""
    now = utc_now()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "starts.txt").open("a") as file:
            file.write(now + "\n")
    except OSError as error:
        if fault_of(error, folder) is None:
            raise
        return [*starts_of(folder), now]
    return starts_of(folder)


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
