"""What is known of the records of a large study: thousands of them are parsed once, and again only where they changed.

An index holds, for each record that was read and found sound, the SHA-256 of its file, and all of it but its curves,
which are nearly all of its bytes and which few readers want. It lies in the cache folder, never in the study's. Records
remain the only facts: an index that is missing, damaged or old costs time, nothing else. There is none for studies of
fewer than 500 records, and none where KDBENCH_CACHE is off.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench.caches import cache_folder
from kdbench.errors import RecordError
from kdbench.record import TrialRecord, TrialSpec, canonical_json

WORTHWHILE = 500  # records
FORMAT = 1

Stamp = list[int]  # size, time of change in ns, inode


class Curves(Mapping[str, list[float]]):
    """The curves of a record, read from its file when they are looked at. Raise RecordError if it changed since."""

    def __init__(self, folder: Path, key: str, sha256: str) -> None:
        self.folder, self.key, self.sha256 = folder, key, sha256
        self._read: dict[str, list[float]] | None = None

    def _curves(self) -> dict[str, list[float]]:
        if self._read is None:
            path = self.folder / f"{self.key}.json"
            try:
                content = path.read_bytes()
            except OSError as error:
                raise RecordError(f"{path}: {error.strerror or error}. Try again.") from error
            if hashlib.sha256(content).hexdigest() != self.sha256:
                raise RecordError(f"{path}: changed while it was read. Try again.")
            self._read = json.loads(content)["curves"]
        return self._read

    def __getitem__(self, name: str) -> list[float]:
        return self._curves()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._curves())

    def __len__(self) -> int:
        return len(self._curves())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._curves() == dict(other)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, list[float]]:
        return {name: list(curve) for name, curve in self._curves().items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self._curves(),)


class RecordIndex:
    """The index of one folder of records: `known` for each file, `note` what was read of others, `save` at the end."""

    def __init__(self, records_folder: Path, count: int) -> None:
        self.folder = records_folder
        self.path = index_path(records_folder) if count >= WORTHWHILE else None
        self._entries: dict[str, list[Any]] = {}
        self._environments: dict[str, Mapping[str, Any]] = {}
        self._seen: set[str] = set()
        self._changed = False
        if self.path is not None:
            self._load(self.path)

    def _load(self, path: Path) -> None:
        with suppress(OSError, ValueError, KeyError, TypeError):  # an index that cannot be read is as good as none
            checksum, _, content = path.read_bytes().partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != checksum:
                return
            found = json.loads(content)
            if found["format"] == FORMAT:
                self._entries, self._environments = found["entries"], found["environments"]

    def at_a_glance(self, key: str, stamp: Stamp) -> TrialRecord | None:
        """The record of a file whose size, time of change and inode are those of the file that was read; or None."""
        entry = self._entries.get(key)
        return self._record(key, entry) if entry is not None and entry[0] == stamp else None

    def by_content(self, path: Path, content: bytes) -> TrialRecord | None:
        """The record of a file whose content is byte for byte what was read before; or None."""
        entry = self._entries.get(path.stem)
        if entry is None or entry[1] != hashlib.sha256(content).hexdigest():
            return None
        if entry[0] != (stamp := stamp_of(path)):
            entry[0], self._changed = stamp, True
        return self._record(path.stem, entry)

    def note(self, path: Path, content: bytes, record: TrialRecord) -> None:
        """Keep what was read of a file and found sound."""
        if self.path is None:
            return
        body = replace(record, curves={}, environment={}).to_json()
        environment = canonical_json(record.environment)
        name = hashlib.sha256(environment.encode()).hexdigest()[:16]
        self._environments[name] = record.environment
        body = {k: v for k, v in body.items() if k not in ("schema", "protocol", "key", "curves", "environment")}
        self._seen.add(path.stem)
        self._entries[path.stem] = [stamp_of(path), hashlib.sha256(content).hexdigest(), name, body]
        self._changed = True

    def _record(self, key: str, entry: list[Any]) -> TrialRecord:
        _, sha256, name, body = entry
        self._seen.add(key)
        spec = TrialSpec(**{**body["spec"], "members": tuple(body["spec"].get("members", ()))})
        spec.__dict__["key"] = key  # what the hash came to when the record was checked
        return TrialRecord(
            **{
                **body,
                "spec": spec,
                "curves": Curves(self.folder, key, sha256),
                "environment": self._environments[name],
            }
        )

    def save(self) -> None:
        """Write the index if there is anything new in it, without records that were not asked for: they are gone."""
        if self.path is None or not self._changed:
            return
        entries = {key: entry for key, entry in self._entries.items() if key in self._seen}
        environments = {entry[2]: self._environments[entry[2]] for entry in entries.values()}
        content = json.dumps({"format": FORMAT, "entries": entries, "environments": environments}).encode()
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            partial.replace(self.path)
        self._changed = False


def stamp_of(path: Path | os.DirEntry[str]) -> Stamp:
    """What changes when a file is written."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


def index_folder() -> Path:
    """The folder of all indexes."""
    return cache_folder() / "records"


def index_path(records_folder: Path) -> Path | None:
    """The index of a folder of records; None where KDBENCH_CACHE is off."""
    if os.environ.get("KDBENCH_CACHE") == "off":
        return None
    return index_folder() / f"{hashlib.sha256(os.fsencode(records_folder.resolve())).hexdigest()[:16]}.json"
