"""The parent runs: one for each method of each teacher-student pair, with the figures of its final runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdbench.record import TrialSpec
from kdbench.track.payload import CONFIG, PHASE, STATUS, hyper_and_sizes

PARENT = "kdbench.parent"
BEST = "best."
SUMMED_UP = ("final", "teacher", "source")  # phases whose runs a parent sums up; search trials are only its children


@dataclass(frozen=True)
class Parent:
    """A parent run: `key` finds it again (tag `kdbench.parent`), `name` is what people read."""

    key: str
    name: str
    params: Mapping[str, str]


@dataclass(frozen=True)
class Child:
    """A run below a parent, as MLflow holds it: its latest metrics, parameters and tags. end_ms: None while it runs."""

    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    end_ms: int | None


@dataclass(frozen=True)
class Summary:
    """What a parent run shows. Empty metrics mean that there is nothing to sum up yet."""

    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    status: str
    end_ms: int


def parent_of(spec: TrialSpec) -> Parent:
    """The parent of a spec's run: its phase for teachers and source models, otherwise its row and pair."""
    if spec.phase in ("teacher", "source"):
        return Parent(spec.phase, spec.phase, {})
    pair = str(spec.slot.get("pair", ""))
    name = f"{spec.row}: {pair}" if pair else spec.row
    return Parent(f"{spec.row}|{pair}", name, {"method": spec.row, **({"pair": pair} if pair else {})})


def summary_of(children: Iterable[Child]) -> Summary | None:
    """Means over the finished final runs of one configuration, or None while no run has ended.

    Without a final run there are no metrics. Where several configurations were retrained, the one with the best mean
    validation accuracy is shown: choosing by test accuracy would make the parent rows look better than they are.
    `n_finals` is its number of finished runs, `n_failed` the number of final runs of all configurations that did not
    finish.
    """
    ended = [child for child in children if child.end_ms is not None]
    finals = [child for child in ended if child.tags.get(PHASE) in SUMMED_UP]
    if not finals:  # nothing runs below it any more, so neither does the parent
        return Summary({}, {}, "FINISHED", max(child.end_ms or 0 for child in ended)) if ended else None
    end_ms = max(child.end_ms or 0 for child in finals)
    groups: dict[str, list[Child]] = {}
    for child in finals:
        if child.tags.get(STATUS) == "finished":
            groups.setdefault(child.tags.get(CONFIG, ""), []).append(child)
    n_failed = float(len(finals) - sum(len(group) for group in groups.values()))
    if not groups:
        return Summary({"n_finals": 0.0, "n_failed": n_failed}, {}, "FAILED", end_ms)
    best = max(sorted(groups), key=lambda config: _mean(groups[config], "val_top1_pct"))
    chosen = groups[best]
    shared = set.intersection(*(set(child.metrics) for child in chosen))
    means = {name: _mean(chosen, name) for name in sorted(shared)}
    tags = {BEST + name: value for name, value in sorted(hyper_and_sizes(chosen[0].params).items())}
    return Summary({**means, "n_finals": float(len(chosen)), "n_failed": n_failed}, tags, "FINISHED", end_ms)


def _mean(children: list[Child], name: str) -> float:
    """Mean of a metric, or minus infinity where a child lacks it. Exactly rounded, so in any order of the children."""
    values = [child.metrics.get(name, -math.inf) for child in children]
    return math.fsum(values) / len(values)
