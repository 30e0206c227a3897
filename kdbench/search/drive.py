"""Run a study: hand jobs to an executor, file every record, tell whoever listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kdbench.record import Job, TrialRecord
from kdbench.search.agenda import Agenda
from kdbench.store import Store


class Listener(Protocol):
    """Something that wants to know how a study goes on: the terminal, MLflow."""

    def started(self, job: Job) -> None:
        """A training has been handed to a worker."""

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        """A training has finished some epochs; the newest point of its curves."""

    def ended(self, record: TrialRecord) -> None:
        """A training has ended and its record is on disk."""


@dataclass
class Desk:
    """Where an executor gets its jobs and brings its records. Used from one thread only."""

    agenda: Agenda
    store: Store
    listeners: list[Listener] = field(default_factory=list)
    stopping: bool = False

    def next(self) -> Job | None:
        """The next job, or None if none can start now (or the run is stopping)."""
        if self.stopping:
            return None
        job = self.agenda.next()
        if job is not None:
            for listener in self.listeners:
                listener.started(job)
        return job

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        """Pass on a training's progress."""
        for listener in self.listeners:
            listener.epoch(key, point)

    def ended(self, record: TrialRecord) -> None:
        """File a record first, then tell."""
        self.store.write(record)
        self.agenda.done(record)
        for listener in self.listeners:
            listener.ended(record)

    @property
    def over(self) -> bool:
        """Whether the executor can go home."""
        return self.agenda.finished or (self.stopping and not self.agenda.running)


class Executor(Protocol):
    """Places jobs on hardware until the desk is over."""

    workers: int

    def run(self, desk: Desk) -> None:
        """Run jobs until `desk.over`. KeyboardInterrupt ends it early, with all finished records filed."""

    def close(self) -> None:
        """Give back what the executor holds."""
