"""How values and limits are worded in messages about a study file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.errors import listed
from kdbench.fields import FieldInfo

_TYPES: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def got(value: Any) -> str:
    """A value as the file has it, in a few characters."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 40 else f"'{value[:37]}...'"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return str(value)


def between(
    minimum: float | None, maximum: float | None, above: float | None = None, below: float | None = None
) -> str:
    """Limits as words that follow `a number`: ` from 1 to 20`, ` of at least 0 and below 1`.

    minimum and maximum are allowed themselves; above and below are not.
    """
    if minimum is not None and maximum is not None:
        return f" from {minimum:g} to {maximum:g}"
    parts = [
        f"{word} {limit:.12g}"
        for word, limit in (("of at least", minimum), ("above", above), ("up to", maximum), ("below", below))
        if limit is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""


def allowed(info: FieldInfo) -> str:
    """The values of a declared field: `8, 14, 20`, `a number of at least 0`."""
    if info.allowed is not None:
        return listed(str(value) for value in info.allowed)
    return _TYPES[info.type] + between(info.minimum, info.maximum)
