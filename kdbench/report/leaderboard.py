"""One row per retrained configuration and what it gained over its baselines; unlike rows are not ranked."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from kdbench.errors import RecordError
from kdbench.labels import model_label, plural, settings_label
from kdbench.record import TrialRecord, canonical_json
from kdbench.report import stats
from kdbench.report.evaluations import with_evaluations
from kdbench.report.fairness import FAILURES, Fairness, configuration, fairness, majority, planned_seeds
from kdbench.report.latency import Latencies, latencies
from kdbench.report.literature import Published, published, published_teacher
from kdbench.report.load import Results, deployed_key, table_name
from kdbench.report.pareto import Hypervolume, hypervolume, on_front
from kdbench.report.search import merit, search_objectives, searched
from kdbench.report.stats import Difference, Interval

SCORE = "test_top1_pct"
BASELINES = ("scratch", "kd")
FRONTS: dict[str, tuple[str, str]] = {"params": (SCORE, "params"), "latency": (SCORE, "latency_b1_p50_ms")}


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard.

    id: eight hexadecimal digits that name the row in every table, and that `kdbench show` takes: equal settings of
    equal pairs have equal names, whatever their seeds.
    kind: a retrained `student`, the `teacher`, or `missing`: a method of which nothing could be retrained yet.
    values: means over seeds by result name. seeds: those that finished; runs: how many were started; planned: how many
    were to be. scores: test top-1 by seed. differences: by baseline, to the same student trained by `scratch` or `kd`.
    latency_conditions: under which this row's latency was measured. selected_val_top1_pct: of the search trial chosen.
    selected_merit: its first objective, turned so that more is better.
    failures: `search_diverged` and so on -> count. unranked: why the row has no rank. fronts: the fronts it is on.
    within_best: whether it is ranked, and the interval of its difference to the best-ranked row of its table holds 0
    (the best row itself included); False where there are too few seeds for an interval.
    keys: of the records behind the row. published: what the literature has for the same; no part of any ranking.
    """

    kind: Literal["student", "teacher", "missing"]
    pair: str
    method: str
    student: str = ""
    model: Mapping[str, object] = field(default_factory=dict)
    settings: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[int, float] = field(default_factory=dict)
    interval: Interval = field(default_factory=lambda: Interval(None, None, "nothing finished"))
    differences: Mapping[str, Difference] = field(default_factory=dict)
    runs: int = 0
    planned: int | None = None
    latency_conditions: str = ""
    latency_comparable: bool = False
    selected_val_top1_pct: float = math.nan
    selected_merit: float = math.nan
    failures: Mapping[str, int] = field(default_factory=dict)
    rank: int | None = None
    unranked: tuple[str, ...] = ()
    fronts: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    id: str = ""
    within_best: bool = False

    @property
    def score(self) -> float:
        """Mean test top-1 accuracy in percent; NaN if nothing finished."""
        return self.values.get(SCORE, math.nan)

    def value(self, name: str) -> float:
        """A result's mean over seeds; NaN where it was not measured."""
        return self.values.get(name, math.nan)


@dataclass(frozen=True)
class Leaderboard:
    """All rows in order (table, then teacher, ranked, unranked, missing), and what stands around them."""

    rows: tuple[Row, ...]
    fairness: tuple[Fairness, ...]
    latencies: Latencies
    hypervolumes: Mapping[str, Hypervolume]

    def of(self, table: str) -> list[Row]:
        """The rows of one table: ranks and fronts are within it."""
        return [row for row in self.rows if table_name(row.pair) == table]

    @property
    def has_final(self) -> bool:
        """Whether any configuration has been retrained and tested."""
        return any(row.kind == "student" and row.scores for row in self.rows)


def leaderboard(results: Results) -> Leaderboard:
    """Build the table of a study from its records alone."""
    results = with_evaluations(results)
    fair, times = fairness(results), latencies(results)
    rows: list[Row] = []
    volumes: dict[str, Hypervolume] = {}
    for table in results.tables:
        given = {(f.pair, f.method): f for f in fair if table_name(f.pair) == table}
        students = [_student(results, group, given, times) for group in _groups(results, table)]
        students = _ranked(_marked([_compared(row, students) for row in students], given))
        pareto = results.section("pareto")
        students, volumes[table] = _with_fronts(_near_best(students), pareto.get("reference"), pareto.get("ideal"))
        present = {(row.pair, row.method) for row in students}
        missing = [_missing(table, row) for place, row in given.items() if place not in present]
        rows += [*_teachers(results, table, times), *students, *missing]
    return Leaderboard(tuple(rows), tuple(fair), times, volumes)


def _groups(results: Results, table: str) -> list[list[TrialRecord]]:
    """Final trainings by configuration, in the study's order of methods."""
    groups: dict[tuple[str, ...], list[TrialRecord]] = defaultdict(list)
    for record in results.phase("final"):
        if table_name(results.pair(record)) == table:
            groups[(results.pair(record), *configuration(record))].append(record)
    order = {method: i for i, method in enumerate(results.methods)}
    return sorted(groups.values(), key=lambda group: (order[group[0].spec.row], configuration(group[0])))


def _student(
    results: Results, group: list[TrialRecord], given: Mapping[tuple[str, str], Fairness], times: Latencies
) -> Row:
    spec = group[0].spec
    chosen, teacher = results.by_key.get(str(spec.slot.get("chosen"))), results.by_key.get(str(spec.teacher))
    failures = {k: v for k, v in given[results.pair(group[0]), spec.row].failures.items() if k.startswith("search_")}
    failures |= {f"final_{status}": sum(r.status == status for r in group) for status in FAILURES}
    row = Row(
        "student", results.pair(group[0]), spec.row, model_label(spec.model), spec.model,
        settings_label(searched(results, group[0])),
        planned=planned_seeds(results), failures=failures,
        selected_val_top1_pct=_number(chosen.result.get("val_top1_pct")) if chosen else math.nan,
        selected_merit=merit(chosen, search_objectives(results)[0]) if chosen else math.nan,
        published=published(spec, teacher.spec.model if teacher else None),
        id=row_id(results.pair(group[0]), *configuration(group[0])),
    )  # fmt: skip
    return _measured(row, group, times)


def _teachers(results: Results, table: str, times: Latencies) -> list[Row]:
    """The teachers of a table: those behind its trials, or all where no trial names one; each under its name."""
    trials = [r for phase in ("search", "final") for r in results.phase(phase) if table_name(results.pair(r)) == table]
    used = results.behind(key for r in trials for key in (r.spec.teacher, r.spec.init))
    teachers = results.phase("teacher")
    if results.has_pairs:  # a table may have trials of no teacher yet, and still has one of its own
        records = [r for r in teachers if r.key in used or results.role(r.key, table) == "teacher"]
    else:
        records = [r for r in teachers if r.key in used] or teachers
    groups: dict[tuple[str, ...], list[TrialRecord]] = defaultdict(list)
    for record in records:
        groups[(results.role(record.key, table), *configuration(record))].append(record)
    rows = []
    for (name, *_), group in groups.items():
        spec = group[0].spec
        failures = {f"final_{status}": sum(r.status == status for r in group) for status in FAILURES}
        row = Row("teacher", table, name, model_label(spec.model), spec.model, failures=failures,
                  published=published_teacher(spec), id=row_id(table, name, *configuration(group[0])))  # fmt: skip
        why = "the teacher" if name == "teacher" else "a network that others learn from"
        rows.append(_measured(replace(row, unranked=(why,)), group, times))
    return sorted(rows, key=lambda row: (row.method != "teacher", row.student, row.method))


def _measured(row: Row, group: list[TrialRecord], times: Latencies) -> Row:
    """Add means, interval and latency. Of records with equal seeds the first by key counts: a seed is one unit."""
    finished = by_seed(group)
    names = sorted({name for record in finished.values() for name in record.result})
    values = {name: stats.mean([_number(r.result.get(name)) for r in finished.values()]) for name in names}
    key = deployed_key(group[0].spec)
    latency = times.by_model.get(key)
    scores = {seed: float(finished[seed].result[SCORE]) for seed in sorted(finished)}
    return replace(
        row, values={**values, **(latency.values if latency else {})}, scores=scores,
        interval=stats.bootstrap_interval(list(scores.values())),
        runs=len({record.spec.seed for record in group}), keys=tuple(record.key for record in group),
        latency_conditions=latency.conditions if latency else "", latency_comparable=times.comparable(key),
    )  # fmt: skip


def by_seed(group: Iterable[TrialRecord]) -> dict[int, TrialRecord]:
    """The finished trainings of a row by seed; of equal seeds the first. Raise RecordError for one without accuracy."""
    finished: dict[int, TrialRecord] = {}
    for record in group:
        if record.status == "finished":
            if not math.isfinite(_number(record.result.get(SCORE))):
                raise RecordError(
                    f"records/{record.key}.json: finished in phase {record.spec.phase}, but without {SCORE}"
                )
            finished.setdefault(record.spec.seed, record)
    return finished


def _missing(table: str, given: Fairness) -> Row:
    if given.search_run:
        ran = f"search {given.search_run}" + (f" of {given.search_planned}" if given.search_planned else "") + " trials"
        reason = f"not retrained yet ({ran})"
    else:
        reason = "nothing has run yet"
    return Row(
        "missing",
        given.pair,
        given.method,
        given.pair.removeprefix(table).strip(),
        failures=given.failures,
        planned=0,
        unranked=(reason,),
        id=row_id(given.pair, given.method),
    )


def row_id(*what: str) -> str:
    """The name of a row that stands for `what`: its pair and what its trainings have in common."""
    return hashlib.sha256(canonical_json(what).encode()).hexdigest()[:8]


def _compared(row: Row, students: Sequence[Row]) -> Row:
    """Add the differences to the baselines that trained the same student."""
    differences = {}
    for method in BASELINES:
        rivals = [r for r in students if r.method == method and r.model == row.model and r.scores]
        if rivals and row.scores and method != row.method:
            differences[method] = difference(row.scores, preferred(rivals).scores)
    return replace(row, differences=differences)


def preferred(rows: Iterable[Row]) -> Row:
    """The row that validation prefers, like everything that is chosen: the best on test would flatter it.

    Raise ValueError for no rows.
    """
    return max(rows, key=lambda row: (np.nan_to_num(row.selected_merit, nan=-np.inf), row.settings))


def difference(scores: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Difference of two configurations by seed -> accuracy: paired where enough seeds are shared, else unpaired.

    Enough are three, or all seeds of the smaller of the two.
    """
    common = sorted(set(scores) & set(baseline))
    if len(common) >= min(stats.MINIMUM, len(scores), len(baseline)):
        return stats.paired_difference([scores[s] for s in common], [baseline[s] for s in common])
    return stats.unpaired_difference(list(scores.values()), list(baseline.values()))


def _marked(rows: list[Row], given: Mapping[tuple[str, str], Fairness]) -> list[Row]:
    """Add the reasons why a row is not ranked."""
    usual = majority([str(row.runs) for row in rows], str(rows[0].planned)) if rows else None
    out = []
    for row in rows:
        reasons = list(given[row.pair, row.method].reasons)
        if str(row.runs) != usual:
            reasons.append(
                f"final {row.runs} of {plural(row.planned, 'seed')}" if row.planned else f"final {row.runs} seeds"
            )
        if not row.scores:
            reasons.append("no seed finished")
        out.append(replace(row, unranked=tuple(reasons)))
    return out


def _ranked(rows: list[Row]) -> list[Row]:
    """Ranked rows first, by mean; equal means share a rank. Then the unranked, by mean."""
    ordered = sorted(
        rows, key=lambda r: (bool(r.unranked), -np.nan_to_num(r.score, nan=-1.0), r.method, r.student, r.settings)
    )
    means = [row.score for row in ordered if not row.unranked]
    return [row if row.unranked else replace(row, rank=1 + sum(m > row.score for m in means)) for row in ordered]


def _near_best(rows: list[Row]) -> list[Row]:
    """Mark the ranked rows whose difference to the best of them may be 0."""
    best = next((row for row in rows if row.rank and row.scores), None)
    if best is None:
        return rows
    return [
        replace(row, within_best=bool(row.rank) and holds_zero(difference(row.scores, best.scores).interval))
        for row in rows
    ]


def holds_zero(interval: Interval) -> bool:
    """Whether 0 is in an interval; False where there is none."""
    return interval.low is not None and interval.high is not None and interval.low <= 0.0 <= interval.high


def _with_fronts(
    rows: list[Row], reference: Mapping[str, float] | None, ideal: Mapping[str, float] | None
) -> tuple[list[Row], Hypervolume]:
    """Flag the reported front, over ranked rows; the teacher is a reference and not on it."""
    fronts: dict[int, tuple[str, ...]] = defaultdict(tuple)
    for name, axes in FRONTS.items():
        able = [i for i, r in enumerate(rows) if r.rank and (name != "latency" or r.latency_comparable)]
        points = np.array([[rows[i].value(axis) for axis in axes] for i in able], dtype=np.float64)
        for i, flag in zip(able, on_front(points, axes), strict=True):
            if flag:
                fronts[i] += (name,)
    points = np.array([[r.value(axis) for axis in FRONTS["params"]] for r in rows if r.rank], dtype=np.float64)
    volume = hypervolume(points, FRONTS["params"], reference, ideal)
    return [replace(r, fronts=fronts[i]) for i, r in enumerate(rows)], volume


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
