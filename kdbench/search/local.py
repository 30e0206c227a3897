"""Run jobs one after the other in this process: for tests, for debugging, and where Ray is not installed."""

from __future__ import annotations

import time

import torch

from kdbench.errors import DamagedError
from kdbench.record import Job, TrialRecord
from kdbench.search.capacity import require_gpus, spread_for, threads_for
from kdbench.search.drive import Desk
from kdbench.store import Store
from kdbench.study.schema import Resources
from kdbench.train.faults import Fault, fault_of
from kdbench.train.run import run_job
from kdbench.train.workshop import Workshop

LONGEST_PAUSE_S = 1.0


class LocalExecutor:
    """One worker: this process. It outlives errors of memory and disk, and trainings that hang in Python; one that
    hangs outside of Python ends the process (kdbench/train/watch.py), and the next run files it as timed out."""

    workers = 1

    def __init__(self, resources: Resources, store: Store) -> None:
        self.resources, self.store = resources, store
        self.gpus = torch.cuda.device_count()
        require_gpus(resources, self.gpus, own_machine=True)
        self.shop = self._fresh_shop()

    def _fresh_shop(self) -> Workshop:
        return Workshop(self.store, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def run(self, desk: Desk) -> None:
        """Run jobs until there are none, waiting for those that are to be tried again."""
        while True:
            job = desk.next()
            if job is not None:
                outcome = self.work_on(job, desk)
                if isinstance(outcome, TrialRecord):
                    desk.ended(outcome)
                else:
                    desk.broke(job.spec.key, outcome)
            elif (pause_s := desk.pause_s) is not None:
                time.sleep(min(pause_s, LONGEST_PAUSE_S))
            else:
                return

    def work_on(self, job: Job, desk: Desk) -> TrialRecord | Fault:
        """Run one job to its record, or to a fault of the machine."""
        torch.set_num_threads(threads_for(self.resources, job.spec.phase))
        items = run_job(job, self.shop, spread_for(self.resources, job.spec.phase, self.gpus))
        while True:
            try:
                item = next(items)
            except (MemoryError, OSError, RuntimeError, DamagedError) as error:
                fault = fault_of(error, self.store.folder)
                if fault is None:
                    raise
                if fault.kind in ("memory", "device"):
                    self.shop = self._fresh_shop()  # what it kept may be what the memory lacks
                return fault
            if isinstance(item, TrialRecord):
                return item
            desk.epoch(job.spec.key, item)

    def close(self) -> None:
        """Nothing to shut down."""
