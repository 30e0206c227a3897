"""The mirror of a study's records: study = experiment, method and pair = parent run, record = child run.

A record's run is found again by its tag `kdbench.key`, and all that is written is computed from records (payload.py,
parents.py), so writing twice changes nothing and the whole mirror can be deleted and rebuilt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbench.record import TrialRecord
from kdbench.store import Store
from kdbench.track.mlflow import Experiment, has_tag
from kdbench.track.parents import BEST, PARENT, SUMMED_UP, Child, Parent, Summary, parent_of, summary_of
from kdbench.track.payload import (
    DIGEST,
    KEY,
    MODEL,
    PHASE,
    STUDY,
    Payload,
    Point,
    digest,
    latency_points,
    milliseconds,
    payload_of,
)  # fmt: skip

PARENT_RUN = "mlflow.parentRunId"
WEIGHTS, STUDY_FILE = "kdbench.weights", "kdbench.study_file"

Outcome = Literal["created", "updated", "unchanged"]


@dataclass(frozen=True)
class SyncReport:
    """How many runs of records `sync` had to create, to mend or complete, and found as they should be."""

    created: int
    updated: int
    unchanged: int


class Mirror:
    """Writes the records of one study to MLflow. To be used from one thread.

    folder: `results/<study>`. uri: of an MLflow server or database; by default `mlflow.db` inside the folder.
    All methods raise KdbenchError if MLflow is missing or the store cannot be used.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.experiment = Experiment(folder, uri)
        self._store = Store(folder)
        self._parents: dict[str, str] = {}
        self._latency: dict[str, dict[str, Point]] = {}

    def write(self, record: TrialRecord) -> Outcome:
        """Create the record's run, or complete it if an earlier attempt stopped half-way.

        A latency record has no run of its own: its figures are added to the runs of the same model.
        """
        with self.experiment.explained():
            if record.spec.phase == "latency":
                return self._write_latency(record)
            outcome = self._put(record, self._only_one(self.experiment.runs(has_tag(KEY, record.key))))
            if outcome != "unchanged" and record.spec.phase in SUMMED_UP:
                self._sum_up(self._parents[parent_of(record.spec).key])
            return outcome

    def sync(self, records: Iterable[TrialRecord]) -> SyncReport:
        """Make the mirror hold exactly one whole run for each record. Runs of other records are left alone.

        One search finds all that is there; a mirror that lacks nothing is not written to.
        """
        wanted = sorted(records, key=lambda record: (record.started, record.key))
        with self.experiment.explained():
            trials = [record for record in wanted if record.spec.phase != "latency"]
            self._latency.update(latency_points(wanted))
            runs = self.experiment.runs()
            by_key, parents = _by_tag(runs, KEY), _by_tag(runs, PARENT)
            self._parents = {}
            for group, first in _groups(trials).items():
                parent = self._only_one(parents.get(group, []))
                self._parents[group] = self._equip(parent, parent_of(first.spec), milliseconds(first.started))
            counts: dict[Outcome, int] = {"created": 0, "updated": 0, "unchanged": 0}
            stale = dict.fromkeys(self._parents, False)
            for record in trials:
                found = by_key.get(record.key, [])
                outcome = self._put(record, self._only_one(found))
                if outcome == "unchanged" and len(found) > 1:
                    outcome = "updated"
                counts[outcome] += 1
                stale[parent_of(record.spec).key] |= outcome != "unchanged"
            below = _by_tag(runs, PARENT_RUN)
            for group, parent_id in self._parents.items():
                if stale[group]:
                    self._show(self.experiment.run(parent_id), _summary(self._below(parent_id)))
                else:
                    parent = next(run for run in parents[group] if run.info.run_id == parent_id)
                    self._show(parent, _summary(below[parent_id]))
            return SyncReport(**counts)

    def _put(self, record: TrialRecord, run: Any) -> Outcome:
        """Bring the run of a record to what it should be, and say what was needed. run: None if there is none."""
        wanted = payload_of(record, self.experiment.name)
        tags = {**wanted.tags, PARENT_RUN: self._parent(record)}
        outcome: Outcome = "updated" if run else "created"
        if run and run.data.tags.get(DIGEST, tags[DIGEST]) != tags[DIGEST]:
            # The record has been replaced. MLflow does not let parameters change, so the run is written anew.
            self.experiment.delete(run.info.run_id)
            run = None
        if run is None:
            early = {name: value for name, value in tags.items() if name != DIGEST}
            run = self.experiment.create(wanted.name, wanted.start_ms, early)
        return outcome if self._complete(record, run, wanted, tags) else "unchanged"

    def _complete(self, record: TrialRecord, run: Any, wanted: Payload, tags: dict[str, str]) -> bool:
        """Write what the run lacks; return whether it lacked anything.

        The digest is written with the last batch and the status after it, so a run that has both is whole.
        """
        run_id, has = run.info.run_id, run.data
        whole = has.tags.get(DIGEST) == tags[DIGEST]
        latency = self._latency.get(tags[MODEL], {}).values()
        points = [] if whole else list(wanted.points)
        points += [point for point in latency if has.metrics.get(point.name) != point.value]
        weights = self._store.weights_path(record.key)
        if record.spec.phase in SUMMED_UP and WEIGHTS not in has.tags and weights.exists():
            self.experiment.attach(run_id, weights, "weights")
            tags = {**tags, WEIGHTS: weights.name}
        lacking = {name: value for name, value in tags.items() if has.tags.get(name) != value}
        self.experiment.log(run_id, points, {} if whole else wanted.params, lacking)
        ended = (run.info.status, run.info.end_time) == (wanted.status, wanted.end_ms)
        if not ended:
            self.experiment.end(run_id, wanted.status, wanted.end_ms)
        return bool(points or lacking or not ended)

    def _only_one(self, runs: list[Any]) -> Any:
        """Of several runs of one key (two writers at once, a repeated request) keep the most whole; None if none."""
        ranked = sorted(runs, key=lambda r: (DIGEST not in r.data.tags, r.info.status == "RUNNING", r.info.run_id))
        for run in ranked[1:]:
            self.experiment.delete(run.info.run_id)
        return ranked[0] if ranked else None

    def _write_latency(self, record: TrialRecord) -> Outcome:
        """Add the figures to all runs of the model, and to the parents that show one of them."""
        touched: dict[str, None] = {}
        for model, points in latency_points([record]).items():
            self._latency.setdefault(model, {}).update(points)
            for run in self.experiment.runs(has_tag(MODEL, model)):
                lacking = [point for point in points.values() if run.data.metrics.get(point.name) != point.value]
                if lacking:
                    self.experiment.log(run.info.run_id, lacking)
                    touched[run.data.tags[PARENT_RUN]] = None
        for parent_id in touched:
            self._sum_up(parent_id)
        return "updated" if touched else "unchanged"

    def _parent(self, record: TrialRecord) -> str:
        """Id of the record's parent run, which is created if it is not there."""
        group = parent_of(record.spec)
        if group.key not in self._parents:
            run = self._only_one(self.experiment.runs(has_tag(PARENT, group.key)))
            self._parents[group.key] = self._equip(run, group, milliseconds(record.started))
        return self._parents[group.key]

    def _equip(self, run: Any, group: Parent, start_ms: int) -> str:
        """Create the parent run if it is None, give it its parameters and the study file; return its id."""
        if run is None:
            tags = {PARENT: group.key, STUDY: self.experiment.name}
            run = self.experiment.create(group.name, start_ms, tags)
        params = {name: value for name, value in group.params.items() if name not in run.data.params}
        lacking: dict[str, str] = {}
        study_files = (self._store.folder / name for name in ("study.yaml", "study.json"))
        for path in [path for path in study_files if path.exists()][:1]:
            content = digest(path.read_text("utf-8"))
            if run.data.tags.get(STUDY_FILE) != content:
                self.experiment.attach(run.info.run_id, path)
                lacking[STUDY_FILE] = content
        self.experiment.log(run.info.run_id, params=params, tags=lacking)
        return str(run.info.run_id)

    def _sum_up(self, parent_id: str) -> None:
        """Bring a parent run up to date with its final runs."""
        summary = _summary(self._below(parent_id, f" AND tags.`{PHASE}` != 'search'"))
        if summary:
            self._show(self.experiment.run(parent_id), summary)

    def _below(self, parent_id: str, condition: str = "") -> list[Any]:
        """The runs below a parent run."""
        return self.experiment.runs(has_tag(PARENT_RUN, parent_id) + condition)

    def _show(self, parent: Any, summary: Summary | None) -> None:
        """Write to a parent run what differs from its summary."""
        if summary is None:
            return
        run_id, has = parent.info.run_id, parent.data
        # The figures change as finals arrive: MLflow shows those written last. It cannot delete one; NaN blanks it.
        now_ms = time.time_ns() // 1_000_000
        gone = {name: math.nan for name, value in has.metrics.items() if name not in summary.metrics and value == value}
        metrics = {**{name: v for name, v in summary.metrics.items() if has.metrics.get(name) != v}, **gone}
        tags = {name: value for name, value in summary.tags.items() if has.tags.get(name) != value}
        self.experiment.log(run_id, [Point(name, value, now_ms, 0) for name, value in metrics.items()], tags=tags)
        for name in has.tags:
            if name.startswith(BEST) and name not in summary.tags:
                self.experiment.delete_tag(run_id, name)
        if (parent.info.status, parent.info.end_time) != (summary.status, summary.end_ms):
            self.experiment.end(run_id, summary.status, summary.end_ms)


def _groups(records: Iterable[TrialRecord]) -> dict[str, TrialRecord]:
    """The first record below each parent, by the parent's key."""
    out: dict[str, TrialRecord] = {}
    for record in records:
        out.setdefault(parent_of(record.spec).key, record)
    return out


def _by_tag(runs: Iterable[Any], tag: str) -> dict[str, list[Any]]:
    """Runs by the value of a tag; those without it are left out."""
    out: dict[str, list[Any]] = {}
    for run in runs:
        if tag in run.data.tags:
            out.setdefault(run.data.tags[tag], []).append(run)
    return out


def _summary(runs: Iterable[Any]) -> Summary | None:
    return summary_of(Child(run.data.metrics, run.data.params, run.data.tags, run.info.end_time) for run in runs)
