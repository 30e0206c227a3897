"""What a study searches, fixes and starts from, with the declarations of methods and models filled in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdbench.fields import Choice, FieldInfo, Range, Space, build, fields_of
from kdbench.method import methods
from kdbench.models import models
from kdbench.study.sections import Each, RangeSetting, Student

if TYPE_CHECKING:
    from kdbench.study.schema import Study


@dataclass(frozen=True)
class Cell:
    """One student of the table: a model family, its fixed sizes, and the sizes that are searched.

    label: as shown in tables, such as `resnet` or `resnet depth=8`. fixed: every size that is not searched, defaults
    included. space: the searched sizes.
    """

    label: str
    model: str
    fixed: Mapping[str, Any]
    space: Mapping[str, Choice] = field(default_factory=dict)

    def config(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """The model as a trial's spec holds it: `{"name", sizes...}`, with the searched sizes at the given values."""
        return {"name": self.model, **self.fixed, **{name: sizes[name] for name in self.space}}


def cells(student: Student) -> list[Cell]:
    """One cell for each combination of `each:` values, in the order of the file."""
    declared, written = fields_of(models.get(student.model)), student.sizes
    listed = {name: value.each for name, value in written.items() if isinstance(value, Each)}
    resolved = {name: resolve(info, written.get(name)) for name, info in declared.items() if name not in listed}
    space = {name: value for name, value in resolved.items() if isinstance(value, Choice)}
    fixed = {name: value for name, value in resolved.items() if name not in space}
    out = []
    for values in itertools.product(*listed.values()):
        chosen = {name: declared[name].type(value) for name, value in zip(listed, values, strict=True)}
        label = " ".join([student.model, *(f"{name}={value}" for name, value in chosen.items())])
        sizes = {**fixed, **chosen}
        out.append(Cell(label, student.model, {name: sizes[name] for name in declared if name in sizes}, space))
    return out


def resolve(info: FieldInfo, written: Any) -> Any:
    """The value of a field, or the Range or Choice that is searched; None written means: as declared."""
    if written is None:
        return info.default if info.search is None else info.search
    if isinstance(written, RangeSetting):
        return _narrowed(info, written)
    if isinstance(written, tuple):
        values = tuple(info.type(value) for value in written)
        return Choice(values) if len(values) > 1 else values[0]
    return info.type(written)


def _narrowed(info: FieldInfo, written: RangeSetting) -> Range:
    """A written range; where the study does not say, the declared scale or step holds, but never both."""
    declared = info.search if isinstance(info.search, Range) else None
    log, step = written.log, written.step
    if log is None:
        log = declared is not None and declared.log and step is None
    if step is None and declared is not None and not log:
        step = declared.step
    return Range(info.type(written.low), info.type(written.high), log, step, info.type is int)


def searched(study: Study, method: str, cell: Cell) -> dict[str, Space]:
    """See Study.space."""
    declared, written = fields_of(methods.get(method)), study.methods[method]
    resolved = {name: resolve(info, written.get(name)) for name, info in declared.items()}
    out: dict[str, Space] = {name: value for name, value in resolved.items() if isinstance(value, Range | Choice)}
    out |= {f"student.{name}": choice for name, choice in cell.space.items()}
    by_definition = build(methods.get(method), {}).optimiser()  # searching what the method fixes would waste its trials
    for name, info in SHARED.items():
        setting = getattr(study.search.shared, name)
        if setting is not None and name not in by_definition:
            value = resolve(info, setting)
            out[f"shared.{name}"] = value if isinstance(value, Range | Choice) else Choice((value,))
    return out


def fixed(study: Study, method: str) -> dict[str, Any]:
    """See Study.fixed."""
    declared, written = fields_of(methods.get(method)), study.methods[method]
    resolved = {name: resolve(info, written.get(name)) for name, info in declared.items()}
    return {name: value for name, value in resolved.items() if not isinstance(value, Range | Choice)}


def defaults(study: Study, method: str, cell: Cell) -> dict[str, Any]:
    """See Study.defaults."""
    hyper, sizes = fields_of(methods.get(method)), fields_of(models.get(cell.model))
    out: dict[str, Any] = {}
    for name, space in searched(study, method, cell).items():
        if name.startswith("student."):
            values, default = cell.space[name[8:]].values, sizes[name[8:]].default
            out[name] = default if default in values else values[0]
        elif name.startswith("shared."):
            out[name] = nearest(getattr(study.train, name[7:]), space)
        else:
            out[name] = nearest(hyper[name].default, space)
    return out


def nearest(value: Any, space: Space) -> Any:
    """The value of a space that is nearest to `value`; the first of a choice between words that does not hold it."""
    if isinstance(space, Choice):
        if value in space.values or not all(_is_number(v) for v in (value, *space.values)):
            return value if value in space.values else space.values[0]
        return min(space.values, key=lambda v: abs(v - value))
    clipped = min(max(value, space.low), space.high)
    if space.step is not None:
        last = math.floor((space.high - space.low) / space.step + 1e-9)  # the end of the range may lie between steps
        clipped = space.low + min(round((clipped - space.low) / space.step), last) * space.step
    return round(clipped) if space.integer else float(clipped)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shared(name: str, minimum: float) -> FieldInfo:
    return FieldInfo(name, name, float, minimum, None, None, minimum, None, False, "")


SHARED = {"lr": _shared("lr", 1e-8), "weight_decay": _shared("weight_decay", 0.0)}
