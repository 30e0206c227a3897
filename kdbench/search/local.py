"""Run jobs one after the other in this process: for tests, for debugging, and where Ray is not installed."""

from __future__ import annotations

import time

import torch

from kdbench.record import Job, TrialRecord
from kdbench.search.capacity import threads_for
from kdbench.search.drive import Desk
from kdbench.store import Store
from kdbench.study.schema import Resources
from kdbench.train.run import failed, run_job, starts_of
from kdbench.train.workshop import Workshop


class LocalExecutor:
    """One worker: this process."""

    workers = 1

    def __init__(self, resources: Resources, store: Store) -> None:
        self.resources = resources
        self.shop = Workshop(store, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def run(self, desk: Desk) -> None:
        """Run jobs until there are none."""
        while (job := desk.next()) is not None:
            desk.ended(self.work_on(job, desk))

    def work_on(self, job: Job, desk: Desk) -> TrialRecord:
        """Run one job to its record; an error of the machine is one too, with status `lost`."""
        began = time.monotonic()
        torch.set_num_threads(threads_for(self.resources, job.spec.phase))
        items = run_job(job, self.shop)
        while True:
            try:
                item = next(items)
            except (MemoryError, OSError, torch.cuda.OutOfMemoryError) as error:
                starts = starts_of(self.shop.store.work_folder(job.spec.key))
                return failed(job.spec, error, time.monotonic() - began, starts, status="lost")
            if isinstance(item, TrialRecord):
                return item
            desk.epoch(job.spec.key, item)

    def close(self) -> None:
        """Nothing to shut down."""
