"""What the scripts of the HTML page work on, as plain values: rows, and the records and curves behind them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from kdbench.record import METRICS, TrialRecord, canonical_json, finite, metric
from kdbench.report import stats
from kdbench.report.curves import seeds_of
from kdbench.report.evaluations import evaluations
from kdbench.report.figures import method_styles
from kdbench.report.frames import DECIMALS
from kdbench.report.leaderboard import Leaderboard, Row
from kdbench.report.load import Results, deployed_key
from kdbench.report.search import searched
from kdbench.report.tables import SHORT

NUMBERS = 400_000  # of all curves together; longer ones are thinned, so that a large study stays quick to open
DIGITS = 5  # of a number of a curve
CURVES = ("val_top1_pct", "val_nll", "val_ece_pct", "val_agreement_pct", "train_loss", "lr")
SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "p": "pentagon",
           "<": "triangle-left", ">": "triangle-right"}  # fmt: skip
GROUPS = ("records", "chosen", "networks", "evaluations", "latency", "lost")  # of a row, keys of records
NO_AXES = ("_p5_ms", "_p95_ms")


def page_data(results: Results, board: Leaderboard) -> dict[str, Any]:
    """Everything that the page's scripts read; seeds are text, because JavaScript has no whole numbers of 64 bits."""
    shared = Shared()
    places, tested = _places(results), evaluations(results)
    rows = [_row(results, table, row, shared, places, tested) for table in results.tables for row in board.of(table)]
    needed = {key for row in rows for group in GROUPS for key in row[group]}
    stride = _stride(results.by_key[key] for row in rows for key in row["records"])
    behind = {key for row in rows for key in row["records"]}
    records = {key: _record(results.by_key[key], shared, stride if key in behind else 0) for key in sorted(needed)}
    names = sorted({name for row in board.rows for name in row.values}, key=_rank)
    axes = [name for name in names if is_axis(name)]
    styles = method_styles(results.methods)
    return {
        "study": str(results.study.get("study", "study")), "tables": results.tables, "axes": axes,
        "metrics": {name: _metric(name) for name in names if _known(name)},
        "methods": [{"name": m, "colour": styles[m][0], "symbol": SYMBOLS[styles[m][1]]} for m in results.methods],
        "rows": rows, "records": records, "shared": shared.values, "stride": stride,
    }  # fmt: skip


def is_axis(name: str) -> bool:
    """Whether a result can be an axis of the page's explorer: test means and costs, never validation."""
    if name.startswith("val_") or name.endswith(NO_AXES):
        return False
    return _known(name) and metric(name).direction != "none"


class Shared:
    """Values that many rows and records have in common, kept once: `of` gives their place in `values`."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def of(self, value: Any) -> int:
        """The place of a value that is equal as JSON, which is added if it is new."""
        plain = finite(value)
        key = canonical_json(plain)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(plain)
        return self._places[key]


def _places(results: Results) -> dict[tuple[str, ...], list[str]]:
    """Keys of the search trials that did not finish by (pair, row), of evaluations by (final key,), and of latencies by
    (deployed network,)."""
    out: dict[tuple[str, ...], list[str]] = {}
    for record in results.phase("search"):
        if record.status != "finished":
            out.setdefault((results.pair(record), record.spec.row), []).append(record.key)
    for record in results.phase("evaluation"):
        out.setdefault((str(record.spec.init),), []).append(record.key)
    for record in results.phase("latency"):
        out.setdefault((deployed_key(record.spec),), []).append(record.key)
    return out


def _row(
    results: Results,
    table: str,
    row: Row,
    shared: Shared,
    places: Mapping[tuple[str, ...], list[str]],
    tested: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    records = seeds_of(results, row)
    first = records[0] if records else None
    chosen = [key for r in records[:1] if (key := r.spec.slot.get("chosen")) in results.by_key]
    return {
        "id": row.id, "table": table, "pair": row.pair, "kind": row.kind, "method": row.method,
        "student": row.student, "rank": row.rank, "unranked": list(row.unranked), "fronts": list(row.fronts),
        "values": {name: _number(value) for name, value in row.values.items() if math.isfinite(value)},
        "intervals": _intervals(row, [r for r in records if r.status == "finished"], tested),
        "runs": row.runs, "planned": row.planned,
        "conditions": row.latency_conditions, "comparable": row.latency_comparable,
        "published": [f"{p.text} ({p.protocol}; {p.source})" for p in row.published],
        "settings": finite(searched(results, first)) if first else {}, "failures": dict(row.failures),
        "config": {n: shared.of(dict(getattr(first.spec, n))) for n in ("model", "train", "data")} if first else {},
        "records": [r.key for r in records], "chosen": chosen,
        "lost": places.get((row.pair, row.method), []) if row.kind != "teacher" else [],
        "networks": _networks(results, records),
        "latency": places.get((deployed_key(first.spec),), []) if first else [],
        "evaluations": [key for r in records for key in places.get((r.key,), [])],
    }  # fmt: skip


def _networks(results: Results, records: Sequence[TrialRecord]) -> list[str]:
    """The networks that the row's trainings learnt from or started from."""
    keys = {key for r in records for key in (r.spec.teacher, r.spec.init, *r.spec.members)}
    return sorted(results.behind(keys))


def _record(record: TrialRecord, shared: Shared, stride: int) -> dict[str, Any]:
    """A record without its spec's bulk; with its curves where `stride` is not 0."""
    spec = record.spec
    out: dict[str, Any] = {
        "phase": spec.phase, "status": record.status, "seed": str(spec.seed), "method": spec.row,
        "attempts": record.attempts, "started": record.started, "ended": record.ended, "wall_s": record.wall_s,
        "error": record.error, "model": shared.of(dict(spec.model)), "environment": shared.of(dict(record.environment)),
        "result": {name: _number(v) for name, v in record.result.items() if _is_number(v)},
    }  # fmt: skip
    if stride:
        out["curves"] = {name: _thinned(values, stride) for name, values in _curves(record).items()}
    return out


def _curves(record: TrialRecord) -> dict[str, list[float]]:
    terms = [name for name in record.curves if name.startswith("train_loss_")]
    return {n: list(record.curves[n]) for n in (*CURVES, *terms) if n in record.curves}


def _stride(records: Iterable[TrialRecord]) -> int:
    """Every how many epochs a curve is kept, so that all of them stay below NUMBERS."""
    total = sum(len(values) for record in records for values in _curves(record).values())
    return max(1, math.ceil(total / NUMBERS))


def _thinned(values: Sequence[Any], stride: int) -> list[Any]:
    """`[epochs, values]` of every stride-th epoch, the last one included; the values alone where none is left out."""
    short = [_significant(value) for value in values]
    if stride == 1 or len(values) < 3:
        return short
    kept = sorted({*range(0, len(values), stride), len(values) - 1})
    return [[i + 1 for i in kept], [short[i] for i in kept]]


def _intervals(
    row: Row, finished: Sequence[TrialRecord], tested: Mapping[str, Mapping[str, float]]
) -> dict[str, list[float]]:
    """Bootstrap 95 % intervals of everything that was tested, as stats.bootstrap_interval has them; one resampling.

    tested: what evaluations add to the results of a record, by its key.
    """
    if len(finished) < stats.MINIMUM:
        return {}
    values = [{**r.result, **tested.get(r.key, {})} for r in finished]
    columns = {name: [found.get(name) for found in values] for name in row.values if is_axis(name)}
    able = {n: v for n, v in columns.items() if all(_is_number(x) for x in v) and len(set(v)) > 1}
    if not able:
        return {}
    found = scipy_stats.bootstrap(
        (np.array(list(able.values()), dtype=np.float64),), np.mean, axis=-1, n_resamples=stats.RESAMPLES,
        confidence_level=stats.LEVEL, method="percentile", rng=np.random.default_rng(0), vectorized=True,
    ).confidence_interval  # fmt: skip
    return {n: [_number(float(found.low[i])), _number(float(found.high[i]))] for i, n in enumerate(able)}


def _metric(name: str) -> dict[str, str]:
    about = metric(name)
    base = name.removeprefix("test_").removeprefix("val_")
    split = "validation " if name.startswith("val_") else ""
    return {
        "title": split + about.title, "short": SHORT.get(base, about.title), "unit": about.unit,
        "direction": about.direction,
    }  # fmt: skip


def _rank(name: str) -> tuple[int, str]:
    base = name.removeprefix("test_").removeprefix("val_")
    return (list(METRICS).index(base) if base in METRICS else len(METRICS), name)


def _known(name: str) -> bool:
    try:
        metric(name)
    except KeyError:
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float) -> float | int:
    rounded = round(float(value), DECIMALS)
    return int(rounded) if rounded.is_integer() else rounded


def _significant(value: Any) -> float | int | None:
    if not _is_number(value):
        return None
    short = float(f"{float(value):.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element: no text in it can end the element or start another."""
    text = canonical_json(data)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
