"""Which trainings a study would ask for as they are recorded, and which a change of the study would leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.record import TrialRecord, TrialSpec, canonical_json
from kdbench.study.networks import fixed_networks, networks
from kdbench.study.plan import Stream, final_spec, pair_label, search_spec, values_of
from kdbench.study.schema import Cell, Study

Cells = Mapping[str, Cell]  # by the label of the pair


def wanted(study: Study, records: Mapping[str, TrialRecord]) -> set[str]:
    """Keys of the records of students, and of the networks behind them, that the study would ask for just so.

    However many trials, repeats and seeds it has: what is left out for its number alone is wanted too.
    """
    cells = {pair_label(study, cell): cell for cell in study.cells()}
    specs = {key: record.spec for key, record in records.items()}
    students = {key: spec for key, spec in specs.items() if spec.phase == "search" and _proposed(study, cells, spec)}
    for key, spec in specs.items():
        chosen = students.get(str(spec.slot.get("chosen"))) if spec.phase == "final" else None
        if chosen is not None and final_spec(study, chosen, int(spec.slot["final"])) == spec:
            students[key] = spec
    behind = {spec.key for spec in fixed_networks(study).values()}
    return (set(students) | behind | _behind(study, cells, students)) & set(records)


def lost(old: Study, new: Study, records: Mapping[str, TrialRecord]) -> set[str]:
    """Keys of the records that `old` would ask for and `new` would not, or only in a search of other ranges."""
    kept, before, after = wanted(new, records), _spaces(old), _spaces(new)
    return {
        key
        for key in wanted(old, records)
        if key not in kept
        or ((name := _search_of(records[key].spec)) is not None and before.get(name) != after.get(name))
    }


def _search_of(spec: TrialSpec) -> tuple[str, str] | None:
    """Pair and row of the search that a student belongs to; None of a network."""
    return (str(spec.slot["pair"]), spec.row) if spec.phase in ("search", "final") else None


def _proposed(study: Study, cells: Cells, spec: TrialSpec) -> bool:
    """Whether a search trial is one that the study could have proposed in its place."""
    cell = cells.get(str(spec.slot.get("pair")))
    if cell is None or spec.row not in study.methods:
        return False
    stream = Stream(cell, spec.row, int(spec.slot["repeat"]))
    values = values_of(study, stream, spec)
    if any(value is None for value in values.values()):
        return False
    return search_spec(study, stream, int(spec.slot["trial"]), values) == spec


def _behind(study: Study, cells: Cells, students: Mapping[str, TrialSpec]) -> set[str]:
    """Keys of the networks that students learn from and start from, and of those behind these."""
    known: dict[str, dict[str, TrialSpec]] = {}
    found: set[str] = set()

    def visit(spec: TrialSpec, by_key: Mapping[str, TrialSpec]) -> None:
        for key in (spec.teacher, spec.init, *spec.members):
            if key is not None and key not in found:
                found.add(key)
                if key in by_key:
                    visit(by_key[key], by_key)

    for spec in students.values():
        pair = str(spec.slot["pair"])
        name = canonical_json([dict(spec.model), pair])
        if name not in known:
            made = networks(study, spec.model, cells[pair] if study.pairs else None)
            known[name] = {network.key: network for network in made.values()}
        visit(spec, known[name])
    return found


def _spaces(study: Study) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What is searched, fixed and tried first, by pair and row."""
    return {
        (pair_label(study, cell), row): (study.space(row, cell), study.fixed(row), study.defaults(row, cell))
        for cell in study.cells()
        for row in study.methods
    }
