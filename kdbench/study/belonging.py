"""Which trainings a study would ask for as they are recorded, and which a change of the study would leave behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kdbench.record import TrialRecord, TrialSpec, canonical_json
from kdbench.study.networks import fixed_networks, networks, student_networks
from kdbench.study.plan import Stream, Trials, final_spec, pair_label
from kdbench.study.schema import Study


def wanted(study: Study, records: Mapping[str, TrialRecord]) -> set[str]:
    """Keys of the records of students, and of the networks behind them, that the study would ask for just so.

    However many trials, repeats and seeds it has: what is left out for its number alone is wanted too.
    """
    specs = {key: record.spec for key, record in records.items()}
    students = {spec.key: spec for spec in _proposed(study, specs.values())}
    for key, spec in specs.items():
        chosen = students.get(str(spec.slot.get("chosen"))) if spec.phase == "final" else None
        if chosen is not None and final_spec(study, chosen, int(spec.slot["final"])) == spec:
            students[key] = spec
    fixed = {spec.key for spec in fixed_networks(study).values()}
    sized = _networks(study, (spec for spec in specs.values() if _search_of(spec) is not None))
    return (set(students) | fixed | sized) & set(records)


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


def _proposed(study: Study, specs: Iterable[TrialSpec]) -> Iterator[TrialSpec]:
    """The search trials that the study could have proposed in their place."""
    cells = {pair_label(study, cell): cell for cell in study.cells()}
    searches: dict[tuple[str, str, int], Trials] = {}
    for spec in specs:
        cell = cells.get(str(spec.slot.get("pair"))) if spec.phase == "search" else None
        if cell is None or spec.row not in study.methods:
            continue
        stream = Stream(cell, spec.row, int(spec.slot["repeat"]))
        if stream.name not in searches:
            searches[stream.name] = Trials(study, stream)
        if searches[stream.name].asks_for(spec):
            yield spec


def _networks(study: Study, students: Iterable[TrialSpec]) -> set[str]:
    """Keys of the networks that rows of the study need for students of these sizes."""
    needed = student_networks(study)
    models = {canonical_json(dict(spec.model)): spec.model for spec in students}
    cells = study.cells() if study.pairs else [None]
    made = (networks(study, model, cell) for model in models.values() for cell in cells)
    return {spec.key for found in made for name, spec in found.items() if name in needed}


def _spaces(study: Study) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What is searched, fixed and tried first, by pair and row."""
    return {
        (pair_label(study, cell), row): (study.space(row, cell), study.fixed(row), study.defaults(row, cell))
        for cell in study.cells()
        for row in study.methods
    }
