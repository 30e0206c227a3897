"""Fields that a study file can set or search: the hyper-parameters of methods and the sizes of models.

A declaration such as `temperature: float = hp(4.0, low=1, high=20, log=True)` is the only place where the default, the
type and the range of a hyper-parameter are written; the study schema, the search space, the command line and the tables
are read from it. Importing this module does not import torch.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

FIELD = "kdbench"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; on a logarithmic scale where `log`, in steps where `step` is given.

    `integer` ranges yield ints. A range of a study file may narrow the range that a method declares.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def to_json(self) -> dict[str, Any]:
        """The range as it is written in a study file."""
        out: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.log:
            out["log"] = True
        if self.step is not None:
            out["step"] = self.step
        return out


@dataclass(frozen=True)
class Choice:
    """A finite list of values that the search picks from."""

    values: tuple[Any, ...]

    def to_json(self) -> list[Any]:
        """The choice as it is written in a study file."""
        return list(self.values)


Space = Range | Choice


def holds(space: Space, value: Any) -> bool:
    """Whether a value is one that the space would yield."""
    if isinstance(space, Choice):
        return value in space.values
    if not isinstance(value, (int, float)) or not space.low <= value <= space.high:
        return False
    steps = 0.0 if space.step is None else (value - space.low) / space.step
    return abs(steps - round(steps)) < 1e-8


@dataclass(frozen=True)
class FieldInfo:
    """One declared field: its public name, type, default and limits.

    name: as written in study files and tables (`lambda`); attribute: as written in Python (`lambda_`).
    type: int, float, bool or str.
    search: what is searched when a study says nothing; None means fixed at the default.
    allowed: the only values that are valid, or None.
    minimum, maximum: limits of valid values, whatever is searched.
    structural: True if it changes shapes or code paths, so that trials trained side by side must agree on it.
    added: True if it came later than the first release of its owner: a spec leaves it out while it is at its default,
    so that keys of older records stay.
    """

    name: str
    attribute: str
    type: type
    default: Any
    search: Space | None
    allowed: tuple[Any, ...] | None
    minimum: float | None
    maximum: float | None
    structural: bool
    help: str
    added: bool = False


def hp(
    default: float,
    *,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    step: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    help: str = "",
    added: bool = False,
) -> Any:
    """Declare a numeric hyper-parameter of a method.

    With `low` and `high` it is searched in that range unless the study fixes or narrows it; without, it stays at its
    default unless the study gives a range. `minimum` and `maximum` are the limits beyond which a value is an error.
    """
    if (low is None) != (high is None):
        raise TypeError("hp() needs both low and high, or neither")
    search = None if low is None or high is None else Range(low, high, log, step, isinstance(default, int))
    return _declare(default, search=search, minimum=minimum, maximum=maximum, structural=False, help=help, added=added)


def static(default: Any, *, allowed: tuple[Any, ...] | None = None, help: str = "", added: bool = False) -> Any:
    """Declare a field that changes structure: shapes, layers, which formula is used. It is never searched unasked."""
    return _declare(default, allowed=allowed, help=help, added=added)


def size(
    default: float,
    *,
    allowed: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    help: str = "",
    added: bool = False,
) -> Any:
    """Declare a size of a model (depth, width, ...). A study may fix it, or give a list that is searched."""
    return _declare(default, allowed=allowed, minimum=minimum, maximum=maximum, help=help, added=added)


def _declare(
    default: Any,
    *,
    search: Space | None = None,
    allowed: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    structural: bool = True,
    help: str,
    added: bool,
) -> Any:
    limits = {"search": search, "allowed": allowed, "minimum": minimum, "maximum": maximum}
    facts = {**limits, "structural": structural, "help": help, "added": added}
    return dataclasses.field(default=default, metadata={FIELD: facts})


_TYPES = {"int": int, "float": float, "bool": bool, "str": str}


def fields_of(owner: type) -> dict[str, FieldInfo]:
    """The declared fields of a method or model class by public name, in order of declaration.

    Raise TypeError for a field whose annotation is not int, float, bool or str, or that was not declared with hp(),
    static() or size().
    """
    return dict(_declared(owner))


@functools.cache
def _declared(owner: type) -> dict[str, FieldInfo]:
    out: dict[str, FieldInfo] = {}
    for item in dataclasses.fields(owner):
        declared = item.metadata.get(FIELD)
        annotation = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", str(item.type))
        if declared is None or annotation not in _TYPES:
            raise TypeError(
                f"{owner.__name__}.{item.name}: declare it as `{item.name}: float = hp(...)`, static(...) or "
                "size(...), annotated with int, float, bool or str"
            )
        name = item.name.rstrip("_")
        out[name] = FieldInfo(name, item.name, _TYPES[annotation], item.default, **declared)
    return out


def stated(owner: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values that a spec states: all but fields that were added later and are at their default."""
    declared = fields_of(owner)
    return {k: v for k, v in values.items() if not (declared[k].added and v == declared[k].default)}


def build(owner: type, values: dict[str, Any]) -> Any:
    """Make an instance of `owner` from public names to values; names that are left out keep their default."""
    declared = fields_of(owner)
    return owner(**{declared[name].attribute: declared[name].type(value) for name, value in values.items()})
