"""Which row of which study a person means by `7f3a`, `digits/kd`, `results/digits/kd/cnn5` or a record's key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kdbench.errors import KdbenchError, did_you_mean, listed
from kdbench.record import TrialRecord
from kdbench.report.leaderboard import Leaderboard, Row, leaderboard
from kdbench.report.load import Results, load

DIGITS = 4  # of a row's id that have to be given
ID, KEY = 8, 16  # digits of a row's id and of a record's key
WHAT = (
    "a row's id (column `row` of leaderboard.csv, at least 4 digits), `study/method`, `study/method/student`, the same "
    "after the folder of a study, or the key of a record"
)


@dataclass(frozen=True)
class Report:
    """A study's folder with its records and its leaderboard, both read at the first use."""

    folder: Path

    @cached_property
    def results(self) -> Results:
        """The study and its records."""
        return load(self.folder)

    @cached_property
    def board(self) -> Leaderboard:
        """Its rows."""
        return leaderboard(self.results)

    @property
    def study(self) -> str:
        """The study's name."""
        return str(self.results.study.get("study", self.folder.name))

    def record_path(self, key: str) -> Path:
        """Where a record of the study is."""
        return self.folder / "records" / f"{key}.json"


@dataclass(frozen=True)
class Found:
    """What a person means: rows of one or several studies, or one record."""

    rows: tuple[tuple[Report, Row], ...] = ()
    record: tuple[Report, TrialRecord] | None = None


def locate(text: str, results: Path) -> Found:
    """The rows, or the record, that `text` names. results: the folder that holds one folder per study.

    Raise KdbenchError that says what there is if nothing fits.
    """
    report, rest = _split(text, results)
    reports = [report] if report else studies(results)
    if report is None and not reports:
        raise KdbenchError(f"{results}: holds no study with records. Give another folder with --results.")
    rows = [(r, row) for r in reports for row in r.board.rows if _names(rest, r, row, within=report is not None)]
    if rows:
        return Found(tuple(rows))
    for r in reports:
        if re.fullmatch(f"[0-9a-f]{{{ID + 1},{KEY}}}", rest):
            fitting = [record for record in r.results.records if record.key.startswith(rest)]
            if len(fitting) == 1:
                return Found(record=(r, fitting[0]))
    raise KdbenchError(_nothing(text, rest, reports, report is not None))


def locate_row(text: str, results: Path) -> tuple[Report, Row]:
    """The one row that `text` names. Raise KdbenchError that lists them if several fit, or if it names a record."""
    found = locate(text, results)
    if found.record is not None:
        raise KdbenchError(
            f"'{text}' is a record, and a row is wanted. `kdbench show {text}` names the rows that use it."
        )
    if len(found.rows) > 1:
        raise KdbenchError(f"'{text}' fits {len(found.rows)} rows; give the id of one:\n{listing(found)}")
    return found.rows[0]


def listing(found: Found) -> str:
    """One line for each row: id, study, pair, method, student, settings."""
    lines = []
    for report, row in found.rows:
        score = f", {row.score:.2f} %" if row.scores else ""
        lines.append(
            f"{row.id}  {report.study}: {row.pair}: {row.method} {row.student} ({row.settings or row.kind}{score})"
        )
    return "\n".join(lines)


def studies(results: Path) -> list[Report]:
    """The studies of a folder that have records, by name of their folders."""
    folders = sorted(path.parent for path in results.glob("*/study.json"))
    return [Report(folder) for folder in folders if any((folder / "records").glob("*.json"))]


def _split(text: str, results: Path) -> tuple[Report | None, str]:
    """The study that `text` starts with, by name or by folder, and the rest."""
    parts = text.rstrip("/").split("/")
    for count in range(len(parts), 0, -1):
        start = "/".join(parts[:count])
        for folder in (Path(start) if start else None, results / start if start else None):
            if folder is not None and (folder / "study.json").is_file():
                return Report(folder), "/".join(parts[count:])
    return None, text


def _names(rest: str, report: Report, row: Row, *, within: bool) -> bool:
    """Whether `rest` names a row; without a study only an id does, and within one nothing at all means every row."""
    if len(rest) >= DIGITS and re.fullmatch("[0-9a-f]+", rest) and row.id.startswith(rest):
        return True
    words = (row.method, row.student, row.pair)
    return within and (not rest or rest in _words(*words))


def _words(method: str, student: str, pair: str) -> Iterator[str]:
    yield method
    yield f"{method}/{student}"
    yield f"{pair}/{method}"
    yield f"{pair}/{method}/{student}"


def _nothing(text: str, rest: str, reports: list[Report], within: bool) -> str:
    """Why nothing was found, and what there is."""
    if not within and "/" not in rest:
        names = [report.folder.name for report in reports]
        hint = f" Studies here: {listed(names)}."
        short = (
            f" A row's id needs at least {DIGITS} digits." if re.fullmatch(f"[0-9a-f]{{1,{DIGITS - 1}}}", rest) else ""
        )
        return f"no row or record is named '{text}'.{short} Allowed: {WHAT}.{hint}"
    if not within:
        study = rest.split("/")[0]
        names = [report.folder.name for report in reports]
        return f"no study '{study}'.{did_you_mean(study, names)} Studies here: {listed(names)}."
    rows = reports[0].board.rows
    known = sorted({word for row in rows for word in (row.method, row.student) if word})
    return (
        f"no row of {reports[0].study} is named '{rest}'.{did_you_mean(rest.split('/')[0], known)} Its rows: "
        f"{listed(dict.fromkeys(f'{row.method}/{row.student}' if row.student else row.method for row in rows))}."
    )
