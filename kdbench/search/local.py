"""Run jobs one after the other in this process: for tests, for debugging, and where Ray is not installed."""

from __future__ import annotations

import time

import torch

from kdbench.record import TrialRecord
from kdbench.search.drive import Desk
from kdbench.store import Store
from kdbench.train.run import failed, run_job, starts_of
from kdbench.train.workshop import Workshop


class LocalExecutor:
    """One worker: this process."""

    workers = 1

    def __init__(self, store: Store, device: torch.device) -> None:
        self.shop = Workshop(store, device)

    def run(self, desk: Desk) -> None:
        """Run jobs until there are none."""
        while (job := desk.next()) is not None:
            began = time.monotonic()
            try:
                for item in run_job(job, self.shop):
                    if isinstance(item, TrialRecord):
                        desk.ended(item)
                    else:
                        desk.epoch(job.spec.key, item)
            except (MemoryError, OSError, torch.cuda.OutOfMemoryError) as error:
                starts = starts_of(self.shop.store.work_folder(job.spec.key))
                desk.ended(failed(job.spec, error, time.monotonic() - began, starts, status="lost"))

    def close(self) -> None:
        """Nothing to shut down."""
