"""A study's folder on disk: records that are never half-written, weights, and the lock of whoever runs it.

results/<study>/study.json            the resolved study      records/<key>.json        one per finished trial
weights/<key>.safetensors             trained networks        work/<key>/               a training that is under way

Nothing is read or written outside of the folder: keys are plain names, and a symbolic link that leads out is refused.
What is written holds no passwords (kdbench/redact.py).
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench import strict_json
from kdbench.errors import KdbenchError, RecordError
from kdbench.lock import held, holder
from kdbench.record import ProtocolError, TrialRecord, with_checksum
from kdbench.record_index import RecordIndex, Stamp, stamp_of
from kdbench.redact import printable, redact, redact_addresses, redacted

PATIENCE_S = 300.0
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that whoever reads it, after whatever crash, sees the old bytes or the new, never a mixture.

    durable: also outlive a power cut, which costs several milliseconds. Without it, a crash of the process is outlived.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        with partial.open("xb") as out:  # never through a link that somebody has put there
            out.write(data)
            if durable:
                out.flush()
                os.fsync(out.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk's error names no file
    finally:
        with suppress(OSError):  # a disk that went read-only: the error above says more
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


def patience_s() -> float:
    """Seconds for which a disk that is full is asked again before a result is given up."""
    return float(os.environ.get("KDBENCH_DISK_PATIENCE_S", PATIENCE_S))


def patiently(write: Callable[[], object], say: Callable[[str], object] | None = None) -> None:
    """Write what must not be lost: where the disk is full, read-only or failing, again with growing pauses.

    say: is told at once, and when it worked. Raise the last OSError once `patience_s` seconds have passed.
    """
    began, pause = time.monotonic(), 0.1
    for attempt in itertools.count(1):
        try:
            write()
        except OSError as error:
            left = began + patience_s() - time.monotonic()
            if error.errno not in DISK_ERRORS or left <= 0:
                raise
            if say is not None and attempt == 1:
                text = f"{error.filename or 'the disk'}: {error.strerror}. Trying again for {patience_s():g} s"
                say(f"{text}: make room, or Ctrl-C to stop. Nothing that was written is harmed.")
            time.sleep(min(pause, max(left, 0.0)))
            pause = min(2 * pause, 5.0)
        else:
            if say is not None and attempt > 1:
                say(f"The disk takes files again, after {time.monotonic() - began:.0f} s.")
            return


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, ending in a newline."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def parse_record(content: bytes | str) -> TrialRecord:
    """The record that a JSON text holds. Raise ValueError or RecordError that says what is wrong, ProtocolError (which
    is a RecordError) for a sound record of another protocol."""
    return record_of(strict_json.loads(content))


def record_of(value: Any) -> TrialRecord:
    """The record that plain values stand for, their types checked. Raise RecordError that says what is wrong."""
    from kdbench.record_shape import check_record

    check_record(value)
    return TrialRecord.from_json(value)


def redacted_record(record: TrialRecord) -> TrialRecord:
    """The record without secrets in what others wrote: its error, and its environment with the traceback."""
    error = None if record.error is None else printable(redact(record.error), keep="")
    return replace(record, error=error, environment=redacted(record.environment))


class Store:
    """The folder of one study. Paths are made from keys; KdbenchError is raised for a key that is no plain name, and
    for a place that a symbolic link moves out of the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.records_folder = self.folder / "records"

    def record_path(self, key: str) -> Path:
        """Where the record of that key is."""
        return self._inside("records", f"{_plain(key)}.json")

    def weights_path(self, key: str) -> Path:
        """Where the trained network of that key is."""
        return self._inside("weights", f"{_plain(key)}.safetensors")

    def work_folder(self, key: str) -> Path:
        """Where a training keeps its checkpoint while it is under way."""
        return self._inside("work", _plain(key))

    def _inside(self, *parts: str) -> Path:
        """The path below the folder. Raise KdbenchError if a symbolic link on the way leads out of it."""
        path = self.folder.joinpath(*parts)
        if not Path(os.path.realpath(path)).is_relative_to(self.folder):
            raise KdbenchError(
                f"{path}: a symbolic link leads out of the study's folder, and kdbench neither reads nor writes there. "
                f"Put the files themselves into {path.parent}, or link the whole folder {self.folder}."
            )
        return path

    def write(self, record: TrialRecord) -> None:
        """File a record without the secrets in its texts, then forget the training's work folder."""
        write_json(self.record_path(record.key), with_checksum(redacted_record(record).to_json()))
        shutil.rmtree(self.work_folder(record.key), ignore_errors=True)

    def read(self, key: str, index: RecordIndex | None = None) -> TrialRecord:
        """Read one record. Raise RecordError that names the file and what is wrong with it.

        index: spares the checks of a file that was read before and is the same, and notes what is read.
        A record of another protocol is a ProtocolError: it is sound, and another kdbench can read it.
        """
        try:
            path = self.record_path(key)
        except KdbenchError as error:
            raise RecordError(str(error)) from error
        try:
            content = strict_json.read_bytes(path)
            if index is not None and (known := index.by_content(path, content)) is not None:
                return known
            record = record_of(strict_json.loads(content))
        except ProtocolError as error:
            raise ProtocolError(
                f"{path}: {error}. Give the study another name, or report with the kdbench that made it."
            ) from error
        except (OSError, ValueError, TypeError, KeyError, RecordError) as error:
            raise RecordError(f"{path}: {printable(str(error), keep='')}") from error
        if record.key != key:
            raise RecordError(f"{path}: holds the record of {record.key}")
        if index is not None:
            index.note(path, content, record)
        return record

    def stamps(self) -> dict[str, Stamp]:
        """By key, in order, what changes when the file of a record is written."""
        with suppress(FileNotFoundError), os.scandir(self.records_folder) as entries:
            files = sorted((e for e in entries if e.name.endswith(".json")), key=lambda entry: entry.name)
            return {entry.name.removesuffix(".json"): stamp_of(entry) for entry in files}
        return {}

    def read_all(self, remedy: str = "the training is done again") -> tuple[dict[str, TrialRecord], list[str]]:
        """All records by key, and one message for each file that was unreadable and has been set aside.

        What is set aside goes to `records/quarantine/`, so that its training is done again and nothing is deleted.
        remedy: what the messages say will be done about it.
        Raise ProtocolError, and set nothing aside, if a record was made under another protocol.
        """
        records: dict[str, TrialRecord] = {}
        messages: list[str] = []
        paths = sorted(self.records_folder.glob("*.json"))
        index = RecordIndex(self.records_folder, len(paths))
        for path in paths:
            try:
                records[path.stem] = self.read(path.stem, index)
            except ProtocolError:
                raise
            except RecordError as error:
                aside = self.set_aside(path)
                messages.append(f"{error}. Set aside as {aside}; {remedy}.")
        index.save()
        return records, messages

    def set_aside(self, path: Path, *, copy: bool = False) -> Path:
        """Move a file of a folder of the study to its `quarantine/` under a free name; returns where it is now.

        copy: leave the file, for somebody may be reading it, and put a copy there.
        """
        folder = self._inside(path.parent.name, "quarantine")
        folder.mkdir(exist_ok=True)
        numbered = (folder / f"{path.stem}.{n}{path.suffix}" for n in itertools.count(2))
        aside = next(free for free in itertools.chain([folder / path.name], numbered) if not free.exists())
        return Path(shutil.copyfile(path, aside)) if copy else path.replace(aside)

    def write_study(self, study: Mapping[str, Any], source: str | None = None) -> None:
        """Store the resolved study, and the file as the user wrote it, both without the passwords of addresses."""
        write_json(self._inside("study.json"), redacted(study, redact_addresses))
        if source is not None:
            write_atomic(self._inside("study.yaml"), redact_addresses(source).encode())

    def read_study(self) -> dict[str, Any] | None:
        """The resolved study that this folder was started with, or None. Raise KdbenchError if it cannot be read."""
        path = self._inside("study.json")
        if not path.exists():
            return None
        try:
            study = strict_json.read(path)
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
        with held(self._inside("lock")):
            yield

    def holder(self) -> str | None:
        """Who runs the study now, such as `process 7 on host since ...`, or None. Takes nothing."""
        return holder(self._inside("lock"))


def _plain(key: str) -> str:
    """The key, if it may become the name of a file. Raise KdbenchError otherwise."""
    if not isinstance(key, str) or KEY.fullmatch(key) is None:
        raise KdbenchError(
            f"got {printable(repr(key))} as the key of a training. Allowed: letters, digits, '-' and '_', as in the "
            "names of the files in records/."
        )
    return key
