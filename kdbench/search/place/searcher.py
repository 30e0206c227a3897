"""The searcher that Tune asks for trials: it only passes on what the desk hands out."""

from __future__ import annotations

import json
from typing import Any

import ray
from ray.tune.search import Searcher

from kdbench.record import Job, TrialRecord
from kdbench.search.capacity import threads_for
from kdbench.search.drive import Desk
from kdbench.search.place.worker import Gate
from kdbench.study.schema import Resources
from kdbench.train.run import failed, starts_of

WARM_UP_S = 60.0
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0
NEVER = 1 << 30


class DeskSearcher(Searcher):
    """Passes jobs from the desk to Tune and brings the records back.

    Tune gives a waiting trial to whichever worker is free, dropping the worker that was being started for it, and ends
    workers for which no trial waits. Short trainings would soon run one after another on a single worker. So the first
    trials only wait until all workers are up, and where the desk has nothing yet, a trial that waits keeps the place.
    """

    def __init__(self, desk: Desk, workers: int, resources: Resources) -> None:
        super().__init__(metric="training_iteration", mode="max")  # Tune insists on a metric that every result has
        self.desk, self.workers, self.resources = desk, workers, resources
        self.gate = ray.remote(num_cpus=0)(Gate).remote()
        self.asked = 0
        self.wait_s = SHORTEST_WAIT_S
        self.jobs: dict[str, Job] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its searcher to disk, and kdbench never reads it back."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next job; None while nothing can start; FINISHED when nothing will."""
        folder = str(self.desk.store.folder)
        self.asked += 1
        if self.asked <= self.workers:
            return {"folder": folder, "wait": (self.gate, WARM_UP_S, self.workers)}
        job = self.desk.next()
        if job is not None:
            self.jobs[trial_id] = job
            self.wait_s = SHORTEST_WAIT_S
            threads = threads_for(self.resources, job.spec.phase)
            return {"folder": folder, "job": json.dumps(job.to_json()), "threads": threads}
        if self.desk.over:
            return Searcher.FINISHED
        return {"folder": folder, "wait": (self.gate, self.wait_s, NEVER)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on progress."""
        if "point" in result:
            self.desk.epoch(result["key"], json.loads(result["point"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """File the record, or a record that says the training was lost."""
        job = self.jobs.pop(trial_id, None)
        if job is None:
            self.wait_s = min(1.5 * self.wait_s, LONGEST_WAIT_S)
            return
        if not error and result and "record" in result:
            self.desk.ended(TrialRecord.from_json(json.loads(result["record"])))
        elif error:
            self.desk.ended(self.lost(job))

    def lost(self, job: Job) -> TrialRecord:
        """The record of a training whose worker died more often than allowed."""
        folder = self.desk.store.work_folder(job.spec.key)
        note = folder / "error.txt"
        reason = note.read_text() if note.exists() else "the worker process died"
        return failed(job.spec, RuntimeError(reason), 0.0, starts_of(folder), status="lost")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""
