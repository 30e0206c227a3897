"""What was measured of retrained students beside accuracy, by row of the leaderboard: from records of evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdbench.labels import plural
from kdbench.report import stats
from kdbench.report.load import Results
from kdbench.report.stats import Interval

if TYPE_CHECKING:
    from kdbench.report.leaderboard import Leaderboard, Row


def evaluations(results: Results) -> dict[str, dict[str, float]]:
    """Results of the finished evaluations by the key of the final training that they belong to."""
    return {
        str(record.spec.init): {name: float(value) for name, value in record.result.items() if value is not None}
        for record in results.phase("evaluation")
        if record.status == "finished"
    }


def with_evaluations(results: Results) -> Results:
    """The same results, in which every final training also has what its evaluation measured."""
    found = evaluations(results)
    records = (replace(r, result={**r.result, **found.get(r.key, {})}) for r in results.records)
    return replace(results, records=tuple(records)) if found else results


@dataclass(frozen=True)
class Evaluated:
    """A row of the leaderboard with what evaluations measured: values by result name, one for each seed that has it."""

    row: Row
    values: Mapping[str, Sequence[float]]

    def mean(self, name: str) -> float:
        """Mean over seeds; NaN where it was not measured."""
        return stats.mean(self.values.get(name, ()))

    def interval(self, name: str) -> Interval:
        """Bootstrap interval of the mean over seeds."""
        return stats.bootstrap_interval(self.values.get(name, ()))


def evaluated(results: Results, board: Leaderboard, *needed: str) -> list[Evaluated]:
    """The rows of students, in the order of the leaderboard, of which all the `needed` results were measured; of equal
    seeds the first counts, as in the leaderboard."""
    found, out = evaluations(results), []
    for row in board.rows:
        by_seed: dict[int, dict[str, float]] = {}
        for key in row.keys if row.kind == "student" else ():
            if key in found and all(name in found[key] for name in needed):
                by_seed.setdefault(results.by_key[key].spec.seed, found[key])
        if by_seed:
            names = set.intersection(*(set(values) for values in by_seed.values()))
            values = {name: [by_seed[seed][name] for seed in sorted(by_seed)] for name in sorted(names)}
            out.append(Evaluated(row, values))
    return out


def counted(results: Results) -> str:
    """How many evaluations ended how, as a sentence."""
    counts = Counter(str(record.status) for record in results.phase("evaluation"))
    others = sorted(status for status in counts if status != "finished")
    bad = ", ".join(f"{counts[status]} {status.replace('_', ' ')}" for status in others)
    finals = sum(record.status == "finished" for record in results.phase("final"))
    total = f"{counts['finished']} of {plural(finals, 'retrained student')} evaluated"
    return f"{total}{f' ({bad})' if bad else ''}. Nothing was selected by these measurements."
