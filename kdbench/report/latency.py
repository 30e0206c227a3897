"""Latency by model: what was measured under unlike conditions is kept apart."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from kdbench.labels import settings_label
from kdbench.record import METRICS, TrialRecord
from kdbench.report.load import Results, model_key


@dataclass(frozen=True)
class Latency:
    """What was measured of one model. values: by metric name. conditions: threads, dtype, backend, device."""

    values: Mapping[str, float]
    conditions: str


@dataclass(frozen=True)
class Latencies:
    """Latency by model key. Only rows measured under `conditions`, those of most models, may share an axis."""

    by_model: Mapping[str, Latency] = field(default_factory=dict)
    conditions: str = ""
    repeats: tuple[int, ...] = ()

    def comparable(self, key: str) -> bool:
        """Whether that model was measured under the common conditions."""
        return key in self.by_model and self.by_model[key].conditions == self.conditions


def latencies(results: Results) -> Latencies:
    """Join the latency records of a study by model: the median over records of equal model and conditions."""
    groups: dict[str, dict[str, list[TrialRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in results.phase("latency"):
        if record.status == "finished":
            groups[conditions_of(record)][model_key(record.spec.model)].append(record)
    if not groups:
        return Latencies()
    order = sorted(groups, key=lambda conditions: (-len(groups[conditions]), conditions))
    by_model: dict[str, Latency] = {}
    for conditions in order:
        for key, records in groups[conditions].items():
            by_model.setdefault(key, Latency(_medians(records), conditions))
    first = [record for group in groups[order[0]].values() for record in group]
    repeats = {n for r in first for n in r.environment.get("latency", {}).get("repeats", {}).values()}
    return Latencies(by_model, order[0], tuple(sorted(repeats)))


def conditions_of(record: TrialRecord) -> str:
    """Everything that has to be equal for two latencies to be compared; the number of repeats need not be."""
    measured = {k: v for k, v in record.environment.get("latency", {}).items() if k != "repeats"}
    hardware = record.environment.get("hardware", {})
    processor = hardware.get("cpu") if str(measured.get("device", "cpu")).startswith("cpu") else hardware.get("gpu")
    return settings_label({**dict(sorted(measured.items())), **({"processor": processor} if processor else {})})


def _medians(records: list[TrialRecord]) -> dict[str, float]:
    names = Counter(
        name for record in records for name in record.result if name in METRICS and name.startswith("latency_")
    )
    out = {}
    for name in sorted(names):
        numbers = [float(r.result[name]) for r in records if r.result.get(name) is not None]
        if numbers:
            out[name] = statistics.median(numbers)
    return out
