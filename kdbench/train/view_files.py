"""The view caches on this machine: list them, check them, clear them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.train.view_table import SUFFIX, ViewTable, cache_folder, read_header


@dataclass(frozen=True)
class CacheFile:
    """One file of the folder.

    state: "sound" as far as its header tells, or why it cannot be used. what: "logits" or "pooled"; key: what the
    values depend on. filled, entries: numbers of entries. disk_bytes: what it takes on the disk.
    """

    path: Path
    state: str
    what: str
    key: dict[str, Any]
    filled: int
    entries: int
    disk_bytes: int


def list_caches(folder: Path | None = None) -> list[CacheFile]:
    """Every view cache of the folder by name, those that were put aside or left half made among them."""
    return [_describe(path) for path in _files(folder)]


def check_caches(folder: Path | None = None) -> dict[Path, int]:
    """Read every table whose header is sound: path -> number of damaged entries. They count as missing when read."""
    damaged = {}
    for file in list_caches(folder):
        if file.state == "sound":
            header = read_header(file.path)
            table = ViewTable(file.path, header["entries"], header["width"])
            damaged[file.path] = len(table.damaged())
            table.close()
    return damaged


def clear(folder: Path | None = None) -> int:
    """Remove every view cache of the folder; returns the bytes set free. Trainings that have one mapped keep it."""
    freed = 0
    for path in _files(folder):
        freed += path.stat().st_blocks * 512
        path.unlink()
    return freed


def _files(folder: Path | None) -> list[Path]:
    return sorted(path for path in (folder or cache_folder()).glob(f"*{SUFFIX}*") if path.is_file())


def _describe(path: Path) -> CacheFile:
    disk_bytes = path.stat().st_blocks * 512
    if not path.name.endswith(SUFFIX):
        state = "put aside" if ".quarantined-" in path.name else "left half made"
        return CacheFile(path, state, "", {}, 0, 0, disk_bytes)
    try:
        header = read_header(path)
        table = ViewTable(path, header["entries"], header["width"])
    except (OSError, ValueError) as error:
        return CacheFile(path, str(error), "", {}, 0, 0, disk_bytes)
    filled = int(table.filled().sum())
    table.close()
    facts = header["facts"]
    return CacheFile(path, "sound", facts.get("what", ""), facts.get("key", {}), filled, header["entries"], disk_bytes)
