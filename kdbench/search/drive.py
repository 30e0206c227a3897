"""Run a study: hand jobs to an executor, file every record, tell whoever listens, try again what the machine lost."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from kdbench.errors import KdbenchError
from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.search.agenda import Agenda
from kdbench.search.retry import Ended, verdict
from kdbench.search.streams import group_size, stream_name, time_counts
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
    damaged: whether the weights of a key do not fit their checksum any more.
    """

    agenda: Agenda
    store: Store
    listeners: list[Listener] = field(default_factory=list)
    stopping: bool = False
    max_retries: int = 2
    say: Callable[[str], None] = on_standard_error
    clock: Callable[[], float] = time.monotonic
    damaged: Callable[[str], bool] = lambda key: False
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
        return None if job is None else self._hand_out(job)

    def _hand_out(self, job: Job) -> Job:
        self.at_work[job.spec.key] = job
        for listener in self.listeners:
            listener.started(job)
        return job

    def beside(self, job: Job, most: int, workers: int) -> list[Job]:
        """Further jobs that can start now and share a stream with one that `next` gave, which makes `most` at most.

        They are as many as leave something for all workers. What has met a fault of its own starts by itself: it may
        have been the one that took the memory, or the process.
        """
        name = stream_name(job.spec) if most > 1 and not self.stopping else None
        if name is None or self._has_met_a_fault(job.spec.key) or time_counts(self.agenda.study.search.objectives):
            return []
        now, everything = self.clock(), list(self.agenda.startable())
        due = [one for one in self.waiting if one.since <= now and not self._has_met_a_fault(one.job.spec.key)]
        due = [one for one in due if stream_name(one.job.spec) == name]
        alike = [spec for spec in everything if self._may_join(spec, job.spec) and stream_name(spec) == name]
        here = 1 + len(due)
        room = group_size(here + len(alike), here + len(everything), workers, most) - 1
        for one in due[:room]:
            self.waiting.remove(one)
        found = [one.job for one in due[:room]]
        further = (self.agenda.hand_out(spec) for spec in alike)
        found += itertools.islice((job for job in further if job is not None), room - len(found))
        return [self._hand_out(job) for job in found]

    def _may_join(self, spec: TrialSpec, first: TrialSpec) -> bool:
        """Whether a search trial may start with the first: of a later round only where no budget may end the search."""
        return spec.phase == "search" and (
            self.agenda.budget.seconds is None or spec.slot["trial"] == first.slot["trial"]
        )

    def _has_met_a_fault(self, key: str) -> bool:
        """Whether a start of a training ended in a fault that may be its own doing."""
        return any(ended.fault.kind != "node" for ended in self._history.get(key, []))

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

    def broke(self, key: str, fault: Fault, together: bool = False) -> None:
        """A start of a training ended in a fault: start it again later, or file how it ends.

        together: others in the same process ended with it.
        """
        job = self.at_work.get(key)
        if job is None:
            return
        history = self._history.setdefault(key, [])
        history.append(Ended(fault, alone=len(self.at_work) == 1 and not together))
        decided = verdict(history, self.max_retries)
        if decided.status != "again":
            from kdbench.train.run import failed  # which imports torch
            from kdbench.train.starts import starts_of

            starts = starts_of(self.store.work_folder(key))
            self.ended(failed(job.spec, KdbenchError(decided.reason), 0.0, starts, status=decided.status))
            return
        damaged = {needed.key for needed in job.needs if self.damaged(needed.key)} if fault.kind == "disk" else set()
        self._again(job, fault.reason, Waiting(job, self.clock() + decided.wait_s, decided.alone))
        if damaged:  # it is up to the agenda, which has these networks made again before
            self.waiting.pop()
            self.agenda.running.pop(key)
            self.agenda.handed -= damaged - self.agenda.running.keys()  # another one may have asked for it already

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
