"""What does not belong in public: absolute paths, which name people and machines, and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.redact import redact

REMOVED = "<removed>"
SHOWN = 60
PATH, SECRET = "an absolute path", "a secret"
ABSOLUTE = re.compile(
    r"file://[^\s'\"]+"
    r"|(?<![\w.:/<~)\]-])(?:/[\w.@+*-]+){2,}/?"  # /home/ada/data or /home/***/data, but not 3/4
    r"|^/[\w.@+*-]+/?$"
    r"|(?<![\w/])~\w*/[\w./@+*-]*"
    r"|\b[A-Za-z]:\\[^\s\"']*"
    r"|\\\\[\w.-]+\\[^\s\"']*"
)


@dataclass(frozen=True)
class Finding:
    """Something that does not belong in public: the file, the field in it, what it is, and its text, secrets hidden."""

    file: str
    field: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.what} ({self.text[:SHOWN]})"


def findings(file: str, value: Any) -> Iterator[Finding]:
    """Everything in the text of plain values, keys of mappings included, that does not belong in public."""
    texts = list(_texts(value, ""))
    together = "\n".join(text for _, text in texts)
    secrets = redact(together) != together  # one look at all of it is many times faster than one at each
    for field, text in texts:
        for found in ABSOLUTE.finditer(text):
            yield Finding(file, field or "the file", PATH, found.group())
        if secrets and redact(text) != text:
            yield Finding(file, field or "the file", SECRET, redact(text))


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Every text in plain values with the name of its field; a key of a mapping has the name of what it leads to."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            place = f"{field}.{name}" if field else str(name)
            yield place, str(name)
            yield from _texts(item, place)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _texts(item, f"{field}[{number}]")


def without_findings(value: Any) -> Any:
    """A copy of plain values with every path replaced by `<removed>` and every secret hidden; keys of mappings stay."""
    if isinstance(value, str):
        return ABSOLUTE.sub(REMOVED, redact(value))
    if isinstance(value, Mapping):
        return {name: without_findings(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_findings(item) for item in value]
    return value
