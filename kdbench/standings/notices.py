"""What a reader has to know beside the tables: which conditions keep entries apart, and records that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from kdbench.labels import plural
from kdbench.report.leaderboard import Row
from kdbench.standings.conditions import TITLES, Conditions, contrast
from kdbench.standings.entry import Entry


@dataclass(frozen=True)
class Comparison:
    """Why tables of two entries are not ranked together.

    tables: pairs of their names. cells: title, what the first has and what the second has, without the settings that
    they share.
    """

    first: str
    second: str
    tables: tuple[tuple[str, str], ...]
    cells: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        names = "; ".join(dict.fromkeys(a if a == b else f"{a} and {b}" for a, b in self.tables))
        cells = "; ".join(f"{title}: {a} against {b}" for title, a, b in self.cells)
        return f"{self.first} and {self.second} are not ranked together ({names}). They differ in {cells}."


def comparisons(entries: Sequence[Entry], groups: Sequence[Sequence[Conditions]]) -> Iterator[Comparison]:
    """For each pair of entries, one sentence for each set of cells that keeps tables of them apart."""
    tables = {entry.label: [m for group in groups for m in group if m.entry is entry] for entry in entries}
    together = {frozenset((id(a), id(b))) for group in groups for a, b in combinations(group, 2)}
    for first, second in combinations(entries, 2):
        found: dict[tuple[tuple[str, str, str], ...], list[tuple[str, str]]] = {}
        for one, other in _counterparts(tables[first.label], tables[second.label]):
            if frozenset((id(one), id(other))) not in together:
                cells = tuple(
                    (TITLES[name], *contrast(one.cells[name], other.cells[name])) for name in one.differing(other)
                )
                found.setdefault(cells, []).append((one.table, other.table))
        for cells, names in found.items():
            yield Comparison(first.label, second.label, tuple(names), cells)


def _counterparts(first: Sequence[Conditions], second: Sequence[Conditions]) -> Iterator[tuple[Conditions, Conditions]]:
    """For each table of the entry that has fewer, the table of the other that is most like it."""

    def unlike(one: Conditions, other: Conditions) -> tuple[int, bool]:
        return len(one.differing(other)), one.table != other.table

    if len(first) <= len(second):
        yield from ((one, min(second, key=lambda other: unlike(one, other))) for one in first if second)
    else:
        yield from ((min(first, key=lambda one: unlike(one, other)), other) for other in second if first)


def duplicates(entries: Sequence[Entry]) -> Iterator[str]:
    """One sentence for each pair of entries that hold final trainings of the same key, and whether they are copies."""
    finals = {entry.label: {record.key for record in entry.results.phase("final")} for entry in entries}
    for first, second in combinations(entries, 2):
        shared = sorted(finals[first.label] & finals[second.label])
        copies = [key for key in shared if first.content[key] == second.content[key]]
        if copies:
            yield (
                f"{first.label} and {second.label} share {plural(len(copies), 'final record')} (same key, same "
                "content): a row that both hold is one row under both names."
            )
        if len(shared) > len(copies):
            yield (
                f"{first.label} and {second.label} hold {plural(len(shared) - len(copies), 'final record')} of the "
                "same key with other content: the same training, made twice."
            )


def twins(lines: Sequence[tuple[Entry, Row]]) -> Iterator[str]:
    """One sentence for each two rows of different entries whose trainings have other keys but came out the same to the
    last bit: the same method under another name, or a copy of its numbers."""
    found = [(entry, row, _outcomes(entry, row)) for entry, row in lines if row.kind == "student"]
    for (first, one, these), (second, other, those) in combinations(found, 2):
        if first is not second and these and these == those and set(one.keys).isdisjoint(other.keys):
            yield (
                f"{one.method} of {first.label} and {other.method} of {second.label} have equal results and curves to "
                f"the last bit in all {plural(len(these), 'training')}, under other keys."
            )


def _outcomes(entry: Entry, row: Row) -> list[str]:
    return sorted(entry.outcome[key] for key in row.keys if key in entry.outcome)
