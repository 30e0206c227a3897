"""Earlier trials of a search, as a proposal is made from them. Without Optuna, which takes half a second to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kdbench.record import TrialRecord

State = Literal["complete", "fail", "pruned", "running"]


def learns(sampler: str, number: int, startup: int) -> bool:
    """Whether what trial `number` tries depends on how earlier ones ended: the default and random draws do not."""
    return sampler != "random" and number >= max(startup, 1)


@dataclass(frozen=True)
class Past:
    """An earlier trial of the same search: what it tried, how it ended, and its objectives if it is complete."""

    params: Mapping[str, Any]
    state: State
    values: tuple[float, ...] | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any], record: TrialRecord | None, objectives: Sequence[str]) -> Past:
        """The trial as its record tells it; without a record it still runs."""
        if record is None:
            return cls(params, "running")
        if record.status == "timed_out":
            return cls(params, "pruned")
        values = [record.result.get(name) for name in objectives]
        if record.status != "finished" or any(value is None for value in values):
            return cls(params, "fail")
        return cls(params, "complete", tuple(float(value) for value in values if value is not None))
