"""Run a study: hand jobs to an executor, file every record, tell whoever listens, try again what the machine lost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from kdbench.errors import KdbenchError
from kdbench.record import Job, TrialRecord
from kdbench.search.agenda import Agenda
from kdbench.search.retry import Ended, verdict
from kdbench.store import Store, patiently, redacted_record
from kdbench.train.faults import Fault


class Listener(Protocol):
    """Something that wants to know how a study goes on: the terminal, MLflow."""

    def started(self, job: Job) -> None:
        """A training has been handed to a worker."""

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        """A training has finished some epochs; the newest point of its curves."""

    def ended(self, record: TrialRecord) -> None:
        """A training has ended and its record is on disk."""


@dataclass(frozen=True)
class Waiting:
    """A training that is to be started again, not before a moment of the monotonic clock; alone: with no other."""

    job: Job
    since: float
    alone: bool = False


def on_standard_error(text: str) -> None:
    """Say something to whoever started the run."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Desk:
    """Where an executor gets its jobs and brings its records. Used from one thread only.

    max_retries: how often a training is started again after faults of the machine. say: tells a person at once.
    """

    agenda: Agenda
    store: Store
    listeners: list[Listener] = field(default_factory=list)
    stopping: bool = False
    max_retries: int = 2
    say: Callable[[str], None] = on_standard_error
    clock: Callable[[], float] = time.monotonic
    waiting: list[Waiting] = field(default_factory=list)
    at_work: dict[str, Job] = field(default_factory=dict)  # by key, what executors hold
    news: int = 0  # epochs and records so far: whether there is progress

    def __post_init__(self) -> None:
        self._history: dict[str, list[Ended]] = {}
        self._reasons: dict[str, list[str]] = {}

    def next(self) -> Job | None:
        """The next job, or None if none can start now (or the run is stopping)."""
        if self.stopping:
            return None
        job = self._due()
        if job is None and not any(one.alone and one.since <= self.clock() for one in self.waiting):
            job = self.agenda.next()
        if job is not None:
            self.at_work[job.spec.key] = job
            for listener in self.listeners:
                listener.started(job)
        return job

    def _due(self) -> Job | None:
        """A training whose time to start again has come. One that is to run alone holds back all others till then."""
        for one in sorted(self.waiting, key=lambda one: not one.alone):
            if one.since <= self.clock():
                if one.alone and self.at_work:
                    return None
                self.waiting.remove(one)
                return one.job
        return None

    @property
    def pause_s(self) -> float | None:
        """Seconds until a training is to start again; None where none waits."""
        since = [one.since for one in self.waiting]
        return max(min(since) - self.clock(), 0.0) if since and not self.stopping else None

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        """Pass on a training's progress."""
        self.news += 1
        for listener in self.listeners:
            listener.epoch(key, point)

    def ended(self, record: TrialRecord) -> None:
        """File a record first, then tell what is filed. A second record of a training is dropped: the first stands."""
        if record.key in self.agenda.records and record.key not in self.agenda.running:
            return
        if reasons := self._reasons.pop(record.key, None):
            record = replace(record, environment={**record.environment, "retries": reasons})
        record = redacted_record(TrialRecord.from_json(record.to_json()))  # what the next run will read
        self._file(record)
        self.news += 1
        self.at_work.pop(record.key, None)
        self._history.pop(record.key, None)
        self.agenda.done(record)
        for listener in self.listeners:
            listener.ended(record)

    def _file(self, record: TrialRecord) -> None:
        """Write a record, waiting for a disk that is full. Raise KdbenchError that names the file once that is over."""
        try:
            patiently(lambda: self.store.write(record), self.say)
        except OSError as error:
            raise KdbenchError(
                f"{error.filename or self.store.folder}: {error.strerror or error}. The record of this training could "
                f"not be filed, so it will be done again; everything that was filed before is kept. Make room, or make "
                "the folder writable, and run the same command again to go on."
            ) from error

    def broke(self, key: str, fault: Fault) -> None:
        """A start of a training ended in a fault: start it again later, or file how it ends."""
        job = self.at_work.get(key)
        if job is None:
            return
        history = self._history.setdefault(key, [])
        history.append(Ended(fault, alone=len(self.at_work) == 1))
        decided = verdict(history, self.max_retries)
        if decided.status != "again":
            from kdbench.train.run import failed, starts_of  # which imports torch

            starts = starts_of(self.store.work_folder(key))
            self.ended(failed(job.spec, KdbenchError(decided.reason), 0.0, starts, status=decided.status))
            return
        self._again(job, fault.reason, Waiting(job, self.clock() + decided.wait_s, decided.alone))

    def put_back(self, reason: str) -> None:
        """All that executors held was lost with them, through no fault of the trainings: it can start again at once."""
        for job in list(self.at_work.values()):
            self._again(job, reason, Waiting(job, self.clock()))

    def _again(self, job: Job, reason: str, waiting: Waiting) -> None:
        self._reasons.setdefault(job.spec.key, []).append(reason)
        self.at_work.pop(job.spec.key)
        self.waiting.append(waiting)

    @property
    def over(self) -> bool:
        """Whether the executor can go home."""
        return (self.agenda.finished and not self.waiting) or (self.stopping and not self.at_work)


class Executor(Protocol):
    """Places jobs on hardware until the desk is over."""

    workers: int

    def run(self, desk: Desk) -> None:
        """Run jobs until `desk.over`. KeyboardInterrupt ends it early, with all finished records filed."""

    def close(self) -> None:
        """Give back what the executor holds."""
