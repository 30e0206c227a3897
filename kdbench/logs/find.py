"""Which trainings a key or a row names, and what the folder of their study holds of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kdbench.errors import KdbenchError, RecordError, listed
from kdbench.record import TrialRecord, TrialSpec
from kdbench.rerun import DIGITS, superseded
from kdbench.status import asked_for
from kdbench.store import Store


@dataclass(frozen=True)
class Traces:
    """What a folder holds of one training: its record, records that were set aside, and its work folder."""

    folder: Path
    key: str
    record: TrialRecord | None = None
    damaged: str | None = None
    earlier: tuple[tuple[Path, TrialRecord], ...] = ()
    work: Path | None = None
    quarantined: tuple[Path, ...] = ()
    asked: TrialSpec | None = None

    @property
    def spec(self) -> TrialSpec | None:
        """What was asked, as far as a record or the study as it stands tells."""
        records = [self.record, *(record for _, record in reversed(self.earlier))]
        return next((record.spec for record in records if record is not None), self.asked)


def named(text: str, results: Path) -> list[tuple[Path, str]]:
    """Folder and key of the trainings that a text names: one by its key, or all of a row."""
    if re.fullmatch(f"[0-9a-f]{{{DIGITS},}}", text):
        places = [
            (folder, key) for folder in _folders(results) for key in sorted(_keys(folder)) if key.startswith(text)
        ]
        if len(places) == 1:
            return places
        if places:
            choice = listed(f"{key} of {folder.name}" for folder, key in places)
            raise KdbenchError(f"'{text}' is the beginning of {choice}. Give more digits of one.")
    from kdbench.report.load import load
    from kdbench.trace.locate import locate

    found = locate(text, results)
    if found.record is not None:
        report, record = found.record
        return [(report.folder, record.key)]
    keys = {}
    for report, row in found.rows:
        for record in load(report.folder).records:
            student = record.spec.row == row.method and record.spec.slot.get("pair") == row.pair
            if record.key in row.keys or (student and row.kind != "teacher"):
                keys[report.folder, record.key] = record
    return [place for place, _ in sorted(keys.items(), key=lambda item: (item[1].started, item[1].key))]


def _folders(results: Path) -> list[Path]:
    """The folders of studies: below `results`, or that one itself."""
    own = [results] if (results / "study.json").is_file() else []
    return own + sorted(path.parent for path in results.glob("*/study.json"))


def _keys(folder: Path) -> set[str]:
    """Keys of all trainings that a folder knows of."""
    files = [*(folder / "records").glob("*.json"), *(folder / "records").glob("*/*.json")]
    return {path.name.split(".")[0] for path in files} | {p.parent.name for p in (folder / "work").glob("*/starts.txt")}


def traces(folder: Path, key: str) -> Traces:
    """What the folder holds of a training."""
    store = Store(folder)
    record, damaged = None, None
    if store.record_path(key).exists():
        try:
            record = store.read(key)
        except RecordError as error:
            damaged = str(error)
    work = store.work_folder(key)
    return Traces(
        folder,
        key,
        record,
        damaged,
        tuple(superseded(store, key)),
        work if work.is_dir() else None,
        tuple(sorted((store.records_folder / "quarantine").glob(f"{key}.*"))),
        asked_for(folder).get(key) if record is None else None,
    )
