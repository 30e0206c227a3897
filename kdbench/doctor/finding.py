"""One thing that `kdbench doctor` has looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """area: what was looked at. found: how it is, in one line. todo: how to mend it; empty where all is right."""

    area: str
    level: Level
    found: str
    todo: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)
