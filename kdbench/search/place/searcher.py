"""The searcher that Tune asks for trials: it only passes on what the desk hands out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from kdbench.record import Job, TrialRecord
from kdbench.search.capacity import threads_for
from kdbench.search.place.gate import Gate
from kdbench.search.place.transport import Transport
from kdbench.search.retry import death
from kdbench.search.streams import most_at_once
from kdbench.study.schema import Resources
from kdbench.train.faults import Fault
from kdbench.train.splitting import ONE, Spread

WARM_UP_S = 60.0
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0
NEVER = 1 << 30


class Source(Protocol):
    """Where jobs come from and records go: a desk, here or in another process."""

    @property
    def over(self) -> bool:
        """Whether no job will come any more."""

    def next(self, most: int) -> list[Job]:
        """The next job, with others that share a stream with it, `most` in all; none if none can start now."""

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        """Pass on a training's progress."""

    def ended(self, record: TrialRecord) -> None:
        """File a record."""

    def broke(self, key: str, fault: Fault, together: bool) -> None:
        """A start of a training ended in a fault; together: with others in the same process."""


class DeskSearcher(Searcher):
    """Passes jobs from the desk to Tune and brings the records back.

    Tune gives a waiting trial to whichever worker is free, dropping the worker that was being started for it, and ends
    workers for which no trial waits. Short trainings would soon run one after another on a single worker. So the first
    trials only wait until all workers are up, and where the desk has nothing yet, a trial that waits keeps the place.
    """

    def __init__(
        self, desk: Source, workers: int, resources: Resources, transport: Transport,
        spread: Callable[[str], Spread] = lambda phase: ONE,
    ) -> None:  # fmt: skip
        super().__init__(metric="training_iteration", mode="max")  # Tune insists on a metric that every result has
        self.desk, self.workers, self.resources = desk, workers, resources
        self.transport, self.spread = transport, spread
        self.gate = transport.actor(Gate)
        self.asked = 0
        self.wait_s = SHORTEST_WAIT_S
        self.keys: dict[str, list[str]] = {}  # of the trainings under way, by Tune's trial
        self.processes: dict[str, int] = {}  # of the trials in `keys`

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its searcher to disk, and kdbench never reads it back."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next job; FINISHED when there will be none; else a trial that waits."""
        self.asked += 1
        if self.asked <= self.workers:
            return {**self.transport.config(), "wait": (self.gate, WARM_UP_S, self.workers)}
        jobs = self.desk.next(most_at_once(self.resources, self.spread("search")))
        if jobs:
            self.keys[trial_id] = [job.spec.key for job in jobs]
            self.wait_s = SHORTEST_WAIT_S
            phase = jobs[0].spec.phase
            threads, spread = threads_for(self.resources, phase), self.spread(phase).to_json()
            return {**self.transport.config(jobs), "threads": threads, "spread": spread}
        if self.desk.over:
            return Searcher.FINISHED
        return {**self.transport.config(), "wait": (self.gate, self.wait_s, NEVER)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on progress, a record, or a fault."""
        if trial_id not in self.keys:
            return
        self.processes[trial_id] = result.get("pid", 0)
        for key, point in json.loads(result.get("points", "{}")).items():
            self.desk.epoch(key, point)
        if "record" in result:
            record = TrialRecord.from_json(json.loads(result["record"]))
            self._left(trial_id, record.key)
            self.desk.ended(record)
            self.transport.filed(record.key)
        elif "fault" in result:
            self._broke(trial_id, Fault.from_json(json.loads(result["fault"])))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The last result of a trial; of one whose worker died, `died` tells more."""
        if trial_id not in self.keys:
            self.wait_s = min(1.5 * self.wait_s, LONGEST_WAIT_S)
        elif not error and result:
            self.on_trial_result(trial_id, result)

    def died(self, trial_id: str, text: str) -> None:
        """A worker died. text: what Ray says about it."""
        self._broke(trial_id, death(text))

    def blame(self, text: str) -> None:
        """Tune ended because Ray killed a worker for memory: that one training has a fault, the others have none."""
        if "low on memory" not in text:
            return
        named = {int(number) for number in re.findall(r"pid[=: ]+(\d+)", text)}
        for trial_id in [trial_id for trial_id, process in self.processes.items() if process in named]:
            self.died(trial_id, text)

    def _broke(self, trial_id: str, fault: Fault) -> None:
        """A fault meets all trainings of a trial that have no record yet."""
        keys = list(self.keys.get(trial_id, []))
        for key in keys:
            self._left(trial_id, key)
            self.desk.broke(key, fault, len(keys) > 1)

    def _left(self, trial_id: str, key: str) -> None:
        """A training of a trial has ended, and with the last one the trial."""
        self.keys[trial_id].remove(key)
        if not self.keys[trial_id]:
            del self.keys[trial_id]
            self.processes.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""
