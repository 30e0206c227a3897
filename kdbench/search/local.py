"""Run jobs one after the other in this process: for tests, for debugging, and where Ray is not installed."""

from __future__ import annotations

import time

import torch

from kdbench.errors import DamagedError
from kdbench.record import Job, TrialRecord
from kdbench.search.capacity import require_gpus, spread_for, threads_for
from kdbench.search.drive import Desk
from kdbench.search.streams import most_at_once
from kdbench.store import Store
from kdbench.study.schema import Resources
from kdbench.train.faults import fault_of
from kdbench.train.splitting import Spread
from kdbench.train.stream import run_jobs
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
                most = most_at_once(self.resources, self.spread(job.spec.phase))
                self.work_on([job, *(desk.beside(job, most, self.workers) if most > 1 else [])], desk)
            elif (pause_s := desk.pause_s) is not None:
                time.sleep(min(pause_s, LONGEST_PAUSE_S))
            else:
                return

    def spread(self, phase: str) -> Spread:
        """Over how many processes a training of a phase is spread."""
        return spread_for(self.resources, phase, self.gpus)

    def work_on(self, jobs: list[Job], desk: Desk) -> None:
        """Run jobs side by side, each to its record; a fault of the machine meets all that have none yet."""
        torch.set_num_threads(threads_for(self.resources, jobs[0].spec.phase))
        left = {job.spec.key for job in jobs}
        items = run_jobs(jobs, self.shop, self.spread(jobs[0].spec.phase))
        while left:
            try:
                key, item = next(items)
            except (MemoryError, OSError, RuntimeError, DamagedError) as error:
                fault = fault_of(error, self.store.folder)
                if fault is None:
                    raise
                if fault.kind in ("memory", "device"):
                    self.shop = self._fresh_shop()  # what it kept may be what the memory lacks
                for key in left:
                    desk.broke(key, fault, together=len(left) > 1)
                return
            if isinstance(item, TrialRecord):
                left.discard(key)
                desk.ended(item)
            else:
                desk.epoch(key, item)

    def close(self) -> None:
        """Nothing to shut down."""
