"""An edited study against the one that its folder was run with: which fields differ, and what hangs on each of them.

What was added (a row, a pair, seeds, trials, repeats) runs beside what there is. What would put trainings of one row
side by side that were made in different ways is refused, as soon as a finished training hangs on it: those of a row or
a pair that was taken out of the study do not count, and neither do those that failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbench.errors import KdbenchError, StudyError
from kdbench.labels import plural, student_labels, value_label
from kdbench.record import TrialRecord
from kdbench.study.belonging import lost, wanted
from kdbench.study.network_sections import TrainOverrides
from kdbench.study.networks import closure, roots
from kdbench.study.schema import Search, Study, Train
from kdbench.study.sections import Each, RangeSetting, Section, plain
from kdbench.study.yaml_source import Path as Field
from kdbench.study.yaml_source import Tree, dotted, read_yaml

MISSING = object()
NAMED = ("methods", "networks", "pairs")  # sections whose members come and go
FREE = ("study", "question", "evaluation", "pareto", "resources", "track")  # decide no training, or only new ones
FREE_FIELDS: tuple[Field, ...] = (("search", "trials"), ("search", "repeats"), ("final", "seeds"))
FLAT = ("train", "search", "final")  # sections whose fields are looked at one by one
RULES: dict[Field, tuple[str, ...]] = {  # what follows from a rule of the search though no spec holds it, by phase
    ("search", "sampler"): ("search", "final"),
    ("search", "objectives"): ("search", "final"),
    ("search", "startup"): ("search", "final"),
    ("search", "batch"): ("search", "final"),
    ("final", "select"): ("final",),
}


@dataclass(frozen=True)
class Change:
    """One field that differs, with its resolved values. hanging: finished trainings that the new value does not fit."""

    field: Field
    old: Any
    new: Any
    hanging: int = 0

    def __str__(self) -> str:
        return f"{dotted(self.field)}: {_shown(self.old)} -> {_shown(self.new)}"


def _shown(value: Any) -> str:
    return "not set" if value is MISSING else value_label(value)


def written(text: str, source: str, overrides: Sequence[str] = ()) -> Tree:
    """Where the fields of a study stand. text: a study file that could be loaded. source: its name in messages."""
    tree = read_yaml(text, source)
    for number, override in enumerate(overrides, start=1):
        name, _, value = override.partition("=")
        parts = tuple(part.strip() for part in name.split("."))
        tree.put(parts, read_yaml(value, f"--set '{override}'", number, parts))
    return tree


def check_edit(old: Study, new: Study, records: Mapping[str, TrialRecord], folder: Path, tree: Tree | None) -> None:
    """Raise StudyError with a line for each change that finished trainings hang on. folder: of the study's results."""
    changes = refused(old, new, records)
    if not changes:
        return
    lines = [
        f"{'' if tree is None else f'{tree.place(change.field)}: '}{change}. "
        f"{plural(change.hanging, 'finished training')} of '{old.study}' {'hangs' if change.hanging == 1 else 'hang'} "
        "on the old value."
        for change in changes
    ]
    count = len({change.field for change in changes})
    raise StudyError(
        [
            *lines,
            f"{folder} holds what was trained before {'this change' if count == 1 else 'these changes'}, and the two "
            f"cannot stand in one table. Take {'it' if count == 1 else 'them'} back, or keep the old results and begin "
            f"new ones by another name, study: {free_name(folder)}",
        ]
    )


def free_name(folder: Path) -> str:
    """A name for the changed study whose results would not mix with others: `digits-2`."""
    number = 2
    while folder.with_name(f"{folder.name}-{number}").exists():
        number += 1
    return f"{folder.name}-{number}"


def accepted(old: Study, new: Study) -> list[str]:
    """What differs, in a few words each: `final.seeds: 2 -> 3`, `methods.dkd added`. To be asked after `check_edit`."""
    said = []
    for section in NAMED:
        before, after = _members(old, section), _members(new, section)
        said += [f"{section}.{name} added" for name in after if name not in before]
        said += [
            f"{section}.{name} removed: its records are kept, and left out" for name in before if name not in after
        ]
    for change in differing(old, new):
        section, whole = dotted(change.field), len(change.field) == 1
        added, removed = whole and change.old is None, whole and change.new is None
        said.append(f"{section} added" if added else f"{section} removed" if removed else str(change))
    return said


def refused(old: Study, new: Study, records: Mapping[str, TrialRecord]) -> list[Change]:
    """The changes on which finished trainings hang, in the order of the study's sections."""
    decisive = [change for change in differing(old, new) if not _free(change.field)]
    if not decisive or not records:
        return []
    finished = {key for key, record in records.items() if record.status == "finished"}
    hanging = {
        group: len(_hanging(old, new, group, records) & finished)
        for group in dict.fromkeys(_group(change.field) for change in decisive)
    }
    found = (replace(change, hanging=hanging[_group(change.field)]) for change in decisive)
    return [change for change in found if change.hanging]


def differing(old: Study, new: Study) -> list[Change]:
    """All fields whose resolved values differ; of methods, networks and pairs only of those that both studies have."""
    changes: list[Change] = []
    for section in Study.model_fields:
        if section in NAMED:
            before, after = _members(old, section), _members(new, section)
            parts = [(f, before[name], after[name]) for name, f in _places(section, after) if name in before]
        else:
            parts = [((section,), getattr(old, section), getattr(new, section))]
        for field, mine, theirs in parts:
            changes += _compared(field, mine, theirs)
    return [change for change in changes if not _same_startup(change, old, new)]


def _compared(field: Field, old: Any, new: Any) -> Iterator[Change]:
    """The leaves of a section that differ; the section as a whole where one study does not have it."""
    if old is None or new is None:
        before, after = {field: plain(old)}, {field: plain(new)}
    else:
        before, after = dict(_leaves(old, field)), dict(_leaves(new, field))
    leaves = {**after, **before}
    above = {leaf[:depth] for leaf in leaves for depth in range(len(leaf))}  # a section that only one study has
    for leaf in leaves:
        if leaf not in above and before.get(leaf, MISSING) != after.get(leaf, MISSING):
            yield Change(leaf, before.get(leaf, MISSING), after.get(leaf, MISSING))


def _leaves(value: Any, field: Field) -> Iterator[tuple[Field, Any]]:
    """Fields with their values, defaults filled in, but not what a network takes over from `train`."""
    if not isinstance(value, Section) or isinstance(value, (RangeSetting, Each)):
        yield field, plain(value)
        return
    for name in type(value).model_fields:
        if not isinstance(value, TrainOverrides) or name not in Train.model_fields or name in value.model_fields_set:
            yield from _leaves(getattr(value, name), (*field, name))
    for name, setting in (value.model_extra or {}).items():
        yield from _leaves(setting, (*field, name))


def _same_startup(change: Change, old: Study, new: Study) -> bool:
    """Whether a changed `startup` says no more than what followed from the number of trials before."""
    if change.field != ("search", "startup"):
        return False
    return _startup(old.search) == _startup(new.search)


def _startup(search: Search) -> int:
    return search.startup if search.startup is not None else max(2, search.trials // 3)


def _members(study: Study, section: str) -> dict[str, Any]:
    """Methods, networks or pairs by name; a pair is called as in tables."""
    if section != "pairs":
        return dict(getattr(study, section))
    return {
        f"{pair.teacher} -> {', '.join(student_labels(pair.student.to_json()))}": pair for pair in study.pairs or ()
    }


def _places(section: str, members: Mapping[str, Any]) -> Iterator[tuple[str, Field]]:
    """Where the study file has each member: pairs are a list there."""
    for number, name in enumerate(members):
        yield name, (section, number if section == "pairs" else name)


def _free(field: Field) -> bool:
    return field[0] in FREE or field[:2] in FREE_FIELDS


def _group(field: Field) -> Field:
    """The part of a study that is exchanged as one to see what hangs on it."""
    return field[:2] if field[0] in (*FLAT, *NAMED) else field[:1]


def _hanging(old: Study, new: Study, group: Field, records: Mapping[str, TrialRecord]) -> set[str]:
    """Keys of the records of rows that both studies have, which would not be asked for if one part were exchanged."""
    try:
        base = _with_common(old, old, new)
        if group in RULES:
            return {key for key in wanted(base, records) if records[key].spec.phase in RULES[group]}
        try:
            return lost(base, _exchanged(base, new, group), records)
        except KdbenchError:  # the part does not stand without others that changed with it
            return lost(base, _with_common(new, old, new), records)
    except KdbenchError:  # the old study names what there is no more, such as the model of a plug-in
        both = old.methods.keys() & new.methods.keys()
        return {key for key, record in records.items() if "pair" in record.spec.slot and record.spec.row in both}


def _with_common(study: Study, old: Study, new: Study) -> Study:
    """The study with only those rows and pairs that both have: what was taken out on purpose is not missed."""
    rows = {name: row for name, row in study.methods.items() if name in old.methods and name in new.methods}
    both = _members(old, "pairs").keys() & _members(new, "pairs").keys()
    pairs = tuple(pair for name, pair in _members(study, "pairs").items() if name in both) if both else study.pairs
    common = study.model_copy(update={"methods": rows, "pairs": pairs})
    needed = {n for cell in (study.cells() if pairs else [None]) for n in closure(common, roots(common, cell), cell)}
    networks = {name: section for name, section in study.networks.items() if name in needed or name in new.networks}
    return common.model_copy(update={"networks": networks})


def _exchanged(base: Study, new: Study, group: Field) -> Study:
    """The study with one part as in the new one."""
    section = str(group[0])
    if section == "pairs":
        theirs = _members(new, "pairs")
        value: Any = tuple(theirs.get(name, pair) if list(theirs).index(name) == group[1] else pair
                           for name, pair in _members(base, "pairs").items() if name in theirs)  # fmt: skip
    elif section in NAMED:
        value = {**_members(base, section), group[1]: _members(new, section)[str(group[1])]}
    elif section in FLAT:
        field = str(group[1])
        value = getattr(base, section).model_copy(update={field: getattr(getattr(new, section), field)})
    else:
        value = getattr(new, section)
    return base.model_copy(update={section: value})
