"""What a leaderboard is made of: submissions that hold, and studies as they are."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from kdbench import strict_json
from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord, canonical_json, finite
from kdbench.report.leaderboard import Leaderboard, leaderboard
from kdbench.report.load import Results
from kdbench.report.reproduction import comparable
from kdbench.submission.check import check, loaded
from kdbench.submission.schema import FOLDER_OF_REPRODUCTIONS, NAME, Submission


@dataclass(frozen=True)
class Entry:
    """A submission, or a study that nobody has packed.

    label: its name in tables. folder: where it lies, which no output tells. submission: None of a study.
    record_sha256: of the files of the records behind its rows, by key. reproductions: the text of its re-runs, by file
    name. test_hash: of the test images, as splits.json has it. unchecked: what the check had to
    leave out.
    """

    label: str
    folder: Path
    results: Results
    board: Leaderboard
    submission: Submission | None = None
    record_sha256: dict[str, str] = field(default_factory=dict)
    reproductions: dict[str, bytes] = field(default_factory=dict)
    test_hash: str | None = None
    unchecked: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The name of its folder."""
        return self.folder.resolve().name

    @property
    def study(self) -> str:
        """Name of its study."""
        return str(self.results.study.get("study", "study"))

    @property
    def authors(self) -> tuple[str, ...]:
        """Who it is by; empty of a study."""
        return self.submission.authors if self.submission else ()

    @cached_property
    def content(self) -> dict[str, str]:
        """By key, what every record says: equal text, equal record, however its file is written."""
        return {record.key: canonical_json(record.to_json()) for record in self.results.records}

    @cached_property
    def outcome(self) -> dict[str, str]:
        """By key of each finished final training, its results and curves without times and latencies."""
        return {record.key: _outcome(record) for record in self.results.phase("final") if record.status == "finished"}

    @cached_property
    def digest(self) -> str:
        """Stands for all that it says, whatever it is called."""
        said = canonical_json([dict(self.results.study), sorted(self.content.items())])
        return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class Refused:
    """A folder that is no part of the leaderboard, and why."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: refused: {self.reason}."


def read_all(paths: Iterable[Path]) -> tuple[list[Entry], list[Refused]]:
    """The entries of some folders, and what is refused of them, in an order that does not depend on the arguments'."""
    entries, refused = [], []
    for folder in expanded(paths):
        try:
            entries.append(read(folder))
        except KdbenchError as error:
            refused.append(Refused(folder.resolve().name, " ".join(str(error).split()).rstrip(".")))
    once = {(entry.label, entry.place, entry.digest): entry for entry in entries}
    refused += [Refused(e.place, f"holds what another folder of this name holds: {e.label}") for e in _again(entries)]
    ordered = [once[key] for key in sorted(once)]
    return _told_apart(ordered), sorted(refused, key=lambda r: (r.place, r.reason))


def _again(entries: Sequence[Entry]) -> list[Entry]:
    """Entries that are there before: of the same name, folder and content."""
    seen = [(entry.label, entry.place, entry.digest) for entry in entries]
    return [entry for number, entry in enumerate(entries) if seen[number] in seen[:number]]


def expanded(paths: Iterable[Path]) -> list[Path]:
    """The folders that are meant: one that holds submissions or studies stands for these.

    Raise KdbenchError for a path that is no folder.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise KdbenchError(f"{path}: no such folder. Give folders of submissions or of studies.")
        inside = [] if _is_entry(path) else [inner for inner in sorted(path.iterdir()) if inner.is_dir()]
        for folder in inside or [path]:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _is_entry(folder: Path) -> bool:
    return any((folder / name).exists() for name in (NAME, "study.json"))


def read(folder: Path) -> Entry:
    """One entry. Raise KdbenchError for a submission that does not hold, or a study that cannot be read."""
    if (folder / NAME).exists() or not (folder / "study.json").exists():
        checked = check(folder)
        made = checked.submission
        entry = Entry(made.name, folder, checked.results, checked.board, made,
                      unchecked=checked.unchecked)  # fmt: skip
    else:
        results = loaded(folder)
        entry = Entry(str(results.study.get("study", "study")), folder, results, leaderboard(results))
    paths = sorted((folder / FOLDER_OF_REPRODUCTIONS).glob("*.json"))
    keys = [key for row in entry.board.rows for key in row.keys]
    return replace(
        entry,
        reproductions={path.name: path.read_bytes() for path in paths},
        record_sha256={key: _sha256(folder / "records" / f"{key}.json") for key in keys},
        test_hash=_test_hash(folder / "splits.json"),
    )


def _test_hash(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        found = strict_json.read(path)["data"]["test_hash"]
    except (ValueError, KeyError, TypeError) as error:
        raise KdbenchError(f"{path.name}: cannot be read as the splits of a study ({error})") from error
    return None if found is None else str(found)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Entries of one name are called by their folders too, and where these are alike by what they hold."""

    def named(entries: Sequence[Entry], what: str) -> list[Entry]:
        count = Counter(entry.label for entry in entries)
        words = [entry.digest[:6] if what == "digest" else entry.place for entry in entries]
        return [
            replace(entry, label=f"{entry.label} ({word})") if count[entry.label] > 1 else entry
            for entry, word in zip(entries, words, strict=True)
        ]

    return named(named(entries, "place"), "digest")


def _outcome(record: TrialRecord) -> str:
    return canonical_json(finite([comparable(dict(record.result)), comparable(dict(record.curves))]))
