"""Put the rows of several entries into one table where their conditions allow it, and rank them there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kdbench.report import captions
from kdbench.report.leaderboard import FRONTS, Row, difference
from kdbench.report.pareto import on_front
from kdbench.report.stats import Difference
from kdbench.standings.conditions import Conditions, conditions
from kdbench.standings.entry import Entry, Refused
from kdbench.standings.notices import Comparison, comparisons, duplicates, twins
from kdbench.standings.status import Reproduced, Status, read_reproductions, status

ORDER = {"teacher": 0, "student": 1, "missing": 2}


@dataclass(frozen=True)
class Line:
    """A row of a merged table.

    entries: whose it is: several where they hold the very same records. status: what re-runs say. rank: within the
    table. behind: how far it is from the first, in % points, with its interval. on_front: no other ranked row is better
    in accuracy or in parameters and not worse in the other. latency_comparable: measured as most rows of the table.
    """

    entries: tuple[Entry, ...]
    row: Row
    status: Status = field(default_factory=Status)
    rank: int | None = None
    behind: Difference | None = None
    on_front: bool = False
    latency_comparable: bool = False

    @property
    def submission(self) -> str:
        """Names of its entries."""
        return ", ".join(entry.label for entry in self.entries)

    @property
    def near(self) -> bool:
        """Whether it cannot be told from the first: the interval of their difference holds 0."""
        low, high = (self.behind.interval.low, self.behind.interval.high) if self.behind else (None, None)
        return low is not None and high is not None and low <= 0 <= high


@dataclass(frozen=True)
class MergedTable:
    """Rows of equal conditions: the teacher, the ranked, the unranked, and methods of which nothing was retrained.

    members: the table of each entry that is in it. notes: what has to be said of its rows.
    """

    title: str
    members: tuple[Conditions, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> dict[str, str]:
        """The conditions that all its rows share."""
        return self.members[0].cells


@dataclass(frozen=True)
class Standings:
    """The public leaderboard: its tables, why there is more than one, what was noticed, and who was refused."""

    entries: tuple[Entry, ...]
    tables: tuple[MergedTable, ...]
    comparisons: tuple[Comparison, ...]
    notices: tuple[str, ...]
    refused: tuple[Refused, ...] = ()


def merge(entries: Sequence[Entry], refused: Iterable[Refused] = ()) -> Standings:
    """The standings of entries whose labels differ."""
    groups = grouped([table for entry in entries for table in conditions(entry)])
    read = {entry.label: read_reproductions(entry) for entry in entries}
    notices = [*duplicates(entries), *(f"{label}: {text}." for label, (_, bad) in read.items() for text in bad)]
    notices += [f"{entry.label}: {text}" for entry in entries if (text := captions.partial(entry.board))]
    notices += [f"{entry.label}: not checked here: {text}." for entry in entries for text in entry.unchecked]
    good = {label: found for label, (found, _) in read.items()}
    tables = [_table(group, title, good) for group, title in zip(groups, _titles(groups), strict=True)]
    return Standings(tuple(entries), tuple(tables), tuple(comparisons(entries, groups)), tuple(notices), tuple(refused))


def grouped(tables: Sequence[Conditions]) -> list[list[Conditions]]:
    """Tables of equal conditions together, at most one of each entry, ordered by data, table and entry."""
    groups: list[list[Conditions]] = []
    for table in tables:
        able = [g for g in groups if not table.differing(g[0]) and all(m.entry is not table.entry for m in g)]
        home = next((g for g in able if g[0].table == table.table), next(iter(able), None))
        if home is None:
            groups.append([table])
        else:
            home.append(table)
    return sorted(groups, key=lambda group: (group[0].data, group[0].table))


def _titles(groups: Sequence[Sequence[Conditions]]) -> list[str]:
    """`cnn8 -> cnn on digits`, and a number where several tables are called so."""
    names = [f"{group[0].table} on {group[0].data}" for group in groups]
    count, seen = Counter(names), Counter[str]()
    out = []
    for name in names:
        seen[name] += 1
        out.append(f"{name}, table {seen[name]} of {count[name]}" if count[name] > 1 else name)
    return out


def _table(group: Sequence[Conditions], title: str, good: Mapping[str, Reproduced]) -> MergedTable:
    merged: dict[tuple[str, ...], list[tuple[Entry, Row]]] = {}
    for member in group:
        for row in member.entry.board.of(member.table):
            own = [member.entry.content[key] for key in row.keys] or [member.entry.label]
            merged.setdefault((row.kind, row.id, *own), []).append((member.entry, row))
    lines = [_line(found, good) for found in merged.values()]
    lines = sorted(_with_latency(_with_front(_ranked(lines))), key=_place)
    return MergedTable(title, tuple(group), tuple(lines), tuple(twins([(x.entries[0], x.row) for x in lines])))


def _line(found: Sequence[tuple[Entry, Row]], good: Mapping[str, Reproduced]) -> Line:
    """One line for rows of the very same records; ranked if it is in any of its studies."""
    entries = tuple(entry for entry, _ in found)
    row = min((row for _, row in found), key=lambda row: len(row.unranked))
    authors = {author for entry in entries for author in entry.authors}
    runs = [run for entry in entries for run in good[entry.label]]
    return Line(entries, row, status(row, runs, authors))


def _ranked(lines: Sequence[Line]) -> list[Line]:
    """Ranks by mean test top-1, equal means sharing one, and each line's distance from the first."""
    able = [line for line in lines if line.row.kind == "student" and not line.row.unranked]
    best = max(able, key=lambda line: (line.row.score, line.row.id), default=None)
    out = []
    for line in lines:
        rank = 1 + sum(other.row.score > line.row.score for other in able) if line in able else None
        gap = difference(line.row.scores, best.row.scores) if best and rank and line is not best else None
        out.append(replace(line, rank=rank, behind=gap))
    return out


def _with_front(lines: Sequence[Line]) -> list[Line]:
    """Flag the front of accuracy and parameters over ranked lines."""
    axes = FRONTS["params"]
    points = np.array([[line.row.value(axis) for axis in axes] for line in lines if line.rank], dtype=np.float64)
    flags = iter(on_front(points, axes) if len(points) else ())
    return [replace(line, on_front=bool(next(flags))) if line.rank else line for line in lines]


def _with_latency(lines: Sequence[Line]) -> list[Line]:
    """Flag latencies that were measured under the conditions of most lines of the table."""
    counts = Counter(line.row.latency_conditions for line in lines if line.row.latency_comparable)
    usual = min(counts, key=lambda words: (-counts[words], words), default=None)
    return [
        replace(line, latency_comparable=line.row.latency_comparable and line.row.latency_conditions == usual)
        for line in lines
    ]


def _place(line: Line) -> tuple[object, ...]:
    score = -1.0 if math.isnan(line.row.score) else line.row.score
    row = line.row
    return (ORDER[row.kind], row.method != "teacher", line.rank is None, -score, row.method, row.student, row.id,
            line.submission)  # fmt: skip
