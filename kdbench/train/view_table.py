"""One file of fp16 rows, one row for each view of each image, mapped by every process of a node.

Layout: a header of HEADER_BYTES (magic, length and SHA-256 of a JSON text, the text), then a check word (uint32) for
each entry, then the rows. A check word of 0 means that the entry is empty; any other is a checksum of the row and of
its place. So the words say what is filled, and a row that was torn, flipped or lost by the disk never counts as
filled.

Rows are written with pwrite and read through a read-only map: a full disk is an error of the writer and not a signal
that kills the process. The row is written before its check word, and the same entry always gets the same values, so
any number of writers may fill a table at once, and one that is killed leaves an entry that is filled or empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdbench import strict_json
from kdbench.caches import cache_folder as cache_folder  # part of this module's interface
from kdbench.errors import KdbenchError
from kdbench.record import canonical_json

MAGIC = b"KDBVIEW1"
PREFIX = "<8sI32s"
HEADER_BYTES = 4096
WORD_BYTES = 4
SUFFIX = ".views"

log = logging.getLogger("kdbench.train.view_cache")


class ViewTable:
    """A mapped table of `entries` rows of `width` fp16 numbers. `open_table` makes one."""

    def __init__(self, path: Path, entries: int, width: int) -> None:
        self.path, self.entries, self.width = path, entries, width
        self.full = False  # the disk is
        self._rows_at = HEADER_BYTES + entries * WORD_BYTES
        self._file = path.open("r+b", buffering=0)
        self.inode = os.fstat(self._file.fileno()).st_ino
        self._words = np.asarray(np.memmap(path, np.uint32, "r", HEADER_BYTES, (entries,)))
        self._rows = np.asarray(np.memmap(path, np.float16, "r", self._rows_at, (entries, width)))

    def read(self, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows fp16 (B, width) of `entries` int64 (B,), copied, and which of them are filled and sound, bool (B,)."""
        words = self._words[entries]  # before the rows: a word is written after its row
        rows = np.zeros((len(entries), self.width), np.float16)
        there = words != 0
        rows[there] = self._rows[entries[there]]  # the others are holes in the file, and would fill memory with zeros
        sound = words == check_words(rows, entries)
        if damaged := np.count_nonzero(~sound & there):
            log.warning("%s: %d entries do not fit their checksum and count as missing", self.path, damaged)
        return rows, sound

    def write(self, entries: np.ndarray, rows: np.ndarray) -> None:
        """Store rows fp16 (B, width). Where the disk is full, say so once and store nothing more."""
        if self.full:
            return
        words = check_words(rows, entries)
        file = self._file.fileno()
        try:
            for entry, row, word in zip(entries.tolist(), rows, words, strict=True):
                os.pwrite(file, row.tobytes(), self._rows_at + entry * self.width * 2)
                os.pwrite(file, word.tobytes(), HEADER_BYTES + entry * WORD_BYTES)
        except OSError as error:
            self.full = True
            log.warning("%s: %s; the teacher runs live for what is not in it", self.path, error.strerror)

    def filled(self) -> np.ndarray:
        """Which entries have a check word, bool (entries,)."""
        filled: np.ndarray = self._words != 0
        return filled

    def damaged(self, chunk: int = 1 << 16) -> np.ndarray:
        """Entries whose row does not fit its check word, int64. Reads everything that is filled."""
        filled = np.flatnonzero(self.filled())
        parts = [filled[low : low + chunk] for low in range(0, len(filled), chunk)]
        return np.concatenate([part[~self.read(part)[1]] for part in parts] or [filled])

    def close(self) -> None:
        """Close the file; the table must not be used afterwards."""
        self._file.close()


def check_words(rows: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Checksum of each row fp16 (B, width) and of its place, uint32 (B,), never 0.

    A sum of the row's bit patterns with odd weights modulo 2^32, so that one flipped bit always changes it.
    """
    weights = (np.arange(1, 2 * rows.shape[1], 2, dtype=np.uint32) * np.uint32(2654435761)) | np.uint32(1)
    total = (np.ascontiguousarray(rows).view(np.uint16) * weights).sum(axis=1, dtype=np.uint32)
    words: np.ndarray = np.maximum(total + entries.astype(np.uint32) * np.uint32(2246822519), np.uint32(1))
    return words


def open_table(path: Path, facts: Mapping[str, Any], entries: int, width: int) -> ViewTable:
    """Open the table at `path`, made if it is missing. A file that does not fit is put aside and a new one begun.

    facts: what the values depend on; stored in the header. Raise KdbenchError if the folder cannot be written.
    """
    header = {"facts": dict(facts), "entries": entries, "width": width, "bytes": size_of(entries, width)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):  # another process may be putting the same file aside
            if not path.exists():
                _create(path, header)
            seen = path.stat().st_ino
            reason = _wrong(path, header)
            if not reason:
                return ViewTable(path, entries, width)
            put_aside(path, seen, reason)
    except OSError as error:
        raise KdbenchError(
            f"view cache {path}: {error.strerror or error}. Set KDBENCH_CACHE to a folder on a local disk that this "
            "process may write."
        ) from error
    raise KdbenchError(f"view cache {path}: {reason}. Remove it, or set KDBENCH_CACHE to another folder.")


def size_of(entries: int, width: int) -> int:
    """Bytes of a table; on disk it takes only what has been filled."""
    return HEADER_BYTES + entries * (WORD_BYTES + 2 * width)


def read_header(path: Path) -> dict[str, Any]:
    """What the header says: `facts`, `entries`, `width`, `bytes`. Raise ValueError that says what is damaged."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise ValueError(f"truncated: {len(head)} bytes, less than its header")
    magic, length, digest = struct.unpack_from(PREFIX, head)
    if magic != MAGIC:
        raise ValueError("not a view table of this version")
    text = head[struct.calcsize(PREFIX) :][:length]
    if hashlib.sha256(text).digest() != digest:
        raise ValueError("the header does not fit its checksum")
    header: dict[str, Any] = strict_json.loads(text)
    if not isinstance(header, dict) or type(header.get("bytes")) is not int:
        raise ValueError("the header is no header")
    if (size := path.stat().st_size) != header["bytes"]:
        raise ValueError(f"truncated: {size} bytes of {header['bytes']}")
    return header


def put_aside(path: Path, inode: int, reason: str) -> None:
    """Rename a file that cannot be trusted and say so; readers that have it mapped keep their map.

    inode: of the file that was judged. Where another process was faster, its new table is left alone.
    """
    aside = path.with_name(f"{path.name}.quarantined-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}")
    try:
        if path.stat().st_ino != inode:
            return
        path.rename(aside)
    except FileNotFoundError:
        return
    log.warning("view cache %s: %s. Renamed to %s; a new table is begun.", path, reason, aside.name)


def _wrong(path: Path, header: Mapping[str, Any]) -> str:
    try:
        found = read_header(path)
    except FileNotFoundError:
        return "vanished"
    except ValueError as error:
        return str(error)
    return "" if canonical_json(found) == canonical_json(header) else f"made for something else: {found}"


def _create(path: Path, header: Mapping[str, Any]) -> None:
    text = canonical_json(header).encode()
    if struct.calcsize(PREFIX) + len(text) > HEADER_BYTES:
        raise KdbenchError(
            f"view cache: the key takes {len(text)} bytes as JSON, more than a header holds. Shorten it."
        )
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            file.write(struct.pack(PREFIX, MAGIC, len(text), hashlib.sha256(text).digest()) + text)
            file.truncate(header["bytes"])
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(new, path)  # unlike a rename, it never replaces a table that another process has begun
    finally:
        new.unlink(missing_ok=True)
