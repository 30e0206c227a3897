"""A study's folder on disk: records that are never half-written, weights, and the lock of whoever runs it.

results/<study>/study.json            the resolved study      records/<key>.json        one per finished trial
weights/<key>.safetensors             trained networks        work/<key>/               a training that is under way
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdbench.errors import KdbenchError, LockedError, RecordError
from kdbench.record import ProtocolError, TrialRecord


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that whoever reads it, after whatever crash, sees the old bytes or the new, never a mixture.

    durable: also outlive a power cut, which costs several milliseconds. Without it, a crash of the process is outlived.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as out:
            out.write(data)
            if durable:
                out.flush()
                os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, ending in a newline."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


class Store:
    """The folder of one study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.records_folder = self.folder / "records"

    def record_path(self, key: str) -> Path:
        """Where the record of that key is."""
        return self.records_folder / f"{key}.json"

    def weights_path(self, key: str) -> Path:
        """Where the trained network of that key is."""
        return self.folder / "weights" / f"{key}.safetensors"

    def work_folder(self, key: str) -> Path:
        """Where a training keeps its checkpoint while it is under way."""
        return self.folder / "work" / key

    def write(self, record: TrialRecord) -> None:
        """File a record, then forget the training's work folder."""
        write_json(self.record_path(record.key), record.to_json())
        shutil.rmtree(self.work_folder(record.key), ignore_errors=True)

    def read(self, key: str) -> TrialRecord:
        """Read one record. Raise RecordError that names the file and what is wrong with it.

        A record of another protocol is a ProtocolError: it is sound, and another kdbench can read it.
        """
        path = self.record_path(key)
        try:
            record = TrialRecord.from_json(json.loads(path.read_bytes()))
        except ProtocolError as error:
            raise ProtocolError(
                f"{path}: {error}. Give the study another name, or report with the kdbench that made it."
            ) from error
        except (OSError, ValueError, TypeError, RecordError) as error:
            raise RecordError(f"{path}: {error}") from error
        if record.key != key:
            raise RecordError(f"{path}: holds the record of {record.key}")
        return record

    def read_all(self) -> tuple[dict[str, TrialRecord], list[str]]:
        """All records by key, and one message for each file that was unreadable and has been set aside.

        What is set aside goes to `records/quarantine/`, so that its training is done again and nothing is deleted.
        Raise ProtocolError, and set nothing aside, if a record was made under another protocol.
        """
        records: dict[str, TrialRecord] = {}
        messages: list[str] = []
        for path in sorted(self.records_folder.glob("*.json")):
            try:
                records[path.stem] = self.read(path.stem)
            except ProtocolError:
                raise
            except RecordError as error:
                aside = self._set_aside(path)
                messages.append(f"{error}. Set aside as {aside}; the training is done again.")
        return records, messages

    def _set_aside(self, path: Path) -> Path:
        """Move a file to the quarantine under a name that is free there; returns where it is now."""
        folder = self.records_folder / "quarantine"
        folder.mkdir(exist_ok=True)
        numbered = (folder / f"{path.stem}.{n}{path.suffix}" for n in itertools.count(2))
        aside = next(free for free in itertools.chain([folder / path.name], numbered) if not free.exists())
        return path.replace(aside)

    def write_study(self, study: Mapping[str, Any], source: str | None = None) -> None:
        """Store the resolved study, and the file as the user wrote it."""
        write_json(self.folder / "study.json", study)
        if source is not None:
            write_atomic(self.folder / "study.yaml", source.encode())

    def read_study(self) -> dict[str, Any] | None:
        """The resolved study that this folder was started with, or None. Raise KdbenchError if it cannot be read."""
        path = self.folder / "study.json"
        if not path.exists():
            return None
        try:
            study = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = str(error)
        else:
            if isinstance(study, dict):
                return study
            reason = "not a mapping"
        raise KdbenchError(
            f"{path} cannot be read as a study: {reason}. Run `kdbench run` on the study file again: it writes "
            "study.json anew and keeps every record that fits."
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study alone. Raise LockedError that says who holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise LockedError(
                    f"{self.folder} is being run by {file.read().strip() or 'another process'}. "
                    "Wait for it, or stop it, and run the same command again."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield
