"""The reported fronts of a study: which retrained configurations no other ranked row beats, and how sure that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import ValidationError

from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord
from kdbench.report import stats
from kdbench.report.leaderboard import Leaderboard, Row, by_seed
from kdbench.report.load import Results
from kdbench.report.pareto import bare, dominates, objectives, on_front
from kdbench.report.replicates import DECIMALS, Replicates, replicates
from kdbench.study.objectives import tested
from kdbench.study.sections import Pareto

OLDER = {"train_device_s": "train_wall_s"}  # records of before it was counted: one device each, so they are equal


@dataclass(frozen=True)
class Front:
    """The ranked rows of one table in some objectives.

    objectives: names of results, `test_top1_pct` and `params`. rows: those with every objective measured, latency
    under the common conditions, best accuracy first. left_out: how many ranked rows have not.
    samples: of each row, by seed, its values (d,). labels: of the rows, distinct within the table.
    """

    table: str
    objectives: tuple[str, ...]
    rows: tuple[Row, ...]
    samples: tuple[Mapping[int, tuple[float, ...]], ...]
    left_out: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives as the study names them."""
        return tuple(map(bare, self.objectives))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Method and student of each row, with the row's id where these are not enough."""
        return labels(self.rows)

    @cached_property
    def points(self) -> np.ndarray:
        """Means over seeds, (n, d)."""
        means = [np.mean(list(sample.values()), axis=0) for sample in self.samples]
        return np.round(np.array(means, dtype=np.float64).reshape(-1, len(self.objectives)), DECIMALS)

    @cached_property
    def flags(self) -> np.ndarray:
        """Which rows are on the front of the means, (n,) bool."""
        return on_front(self.points, self.objectives)

    @cached_property
    def enough(self) -> np.ndarray:
        """Which rows have the seeds that an interval needs, (n,) bool."""
        return np.array([len(sample) >= stats.MINIMUM for sample in self.samples], dtype=bool)

    @cached_property
    def replicates(self) -> Replicates | None:
        """Bootstrap replicates of the points; None where no row has enough seeds."""
        return replicates(self.samples) if self.enough.any() else None

    @cached_property
    def shares(self) -> np.ndarray:
        """Share of the replicates in which each row is on the front, (n,); NaN for rows without enough seeds."""
        if self.replicates is None:
            return np.full(len(self.rows), math.nan)
        return np.where(self.enough, self.replicates.share(np.logical_not(self._dominates.any(axis=1))), math.nan)

    @cached_property
    def dominance(self) -> np.ndarray:
        """Share of the replicates in which row i dominates row j, (n, n); NaN where either has not enough seeds."""
        if self.replicates is None:
            return np.full((len(self.rows),) * 2, math.nan)
        share = self.replicates.share(self._dominates)
        return np.where(self.enough[:, None] & self.enough[None, :], share, math.nan)

    @cached_property
    def _dominates(self) -> np.ndarray:
        """In which of the different replicates row i dominates row j, (k, n, n) bool."""
        return dominates(self.replicates.means if self.replicates else self.points[None], self.objectives)

    def rival(self, j: int) -> tuple[int, float] | None:
        """The row that most probably dominates row j, and how probably; None where none ever does."""
        column = np.nan_to_num(self.dominance[:, j])
        i = int(np.argmax(column))
        return (i, float(column[i])) if column[i] > 0 else None


def section(results: Results) -> Pareto:
    """The study's section `pareto`, with the defaults of what an older study does not say. Raise KdbenchError."""
    try:
        return Pareto.model_validate(dict(results.section("pareto")))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, ("pareto", *first["loc"])))
        raise KdbenchError(
            f"study.json: {place}: {first['msg']}. Run the study again: it writes the file anew."
        ) from error


def reported_fronts(results: Results, board: Leaderboard) -> list[Front]:
    """Every front that the study asks for, of every table that has ranked rows. Raise KdbenchError as `section` does,
    and for objectives that cannot be."""
    asked = [objectives([tested(name) for name in names]) for names in section(results).fronts]
    return [
        front
        for table in results.tables
        if (ranked := [row for row in board.of(table) if row.rank and row.scores])
        for names in asked
        if (front := _front(results, table, names, ranked)).rows
    ]


def _front(results: Results, table: str, names: tuple[str, ...], ranked: Sequence[Row]) -> Front:
    timed = any(name.startswith("latency_") for name in names)
    kept: list[tuple[Row, Mapping[int, tuple[float, ...]]]] = []
    for row in ranked:
        records = by_seed(results.by_key[key] for key in row.keys)
        sample = {seed: _values(row, record, names) for seed, record in records.items()}
        if np.isfinite(list(sample.values())).all() and (row.latency_comparable or not timed):
            kept.append((row, sample))
    rows, samples = tuple(row for row, _ in kept), tuple(sample for _, sample in kept)
    return Front(table, names, rows, samples, len(ranked) - len(kept))


def _values(row: Row, record: TrialRecord, names: Sequence[str]) -> tuple[float, ...]:
    """What one training of a row has in each objective; NaN where it was not measured. Latency is the row's."""
    out = []
    for name in names:
        value = row.value(name) if name.startswith("latency_") else record.result.get(name)
        if value is None and name in OLDER:
            value = record.result.get(OLDER[name])
        out.append(math.nan if value is None else float(value))
    return tuple(out)


def cost(row: Row, name: str) -> float:
    """A row's mean cost; infinite where it was not measured, or as a latency under other conditions than the common."""
    value = row.value(name)
    if math.isnan(value) and name in OLDER:
        value = row.value(OLDER[name])
    comparable = row.latency_comparable or not name.startswith("latency_")
    return value if comparable and math.isfinite(value) else math.inf


def labels(rows: Sequence[Row]) -> tuple[str, ...]:
    """Method and student of each row, with the row's id where these are not enough."""
    short = [f"{row.method} {row.student}".strip() for row in rows]
    counts = Counter(short)
    return tuple(f"{text} ({row.id})" if counts[text] > 1 else text for row, text in zip(rows, short, strict=True))
