"""What runs on a node of the cluster: an actor that trains one job after another, or several side by side.

The driver imports this module, too, and never trains: what takes seconds to import is imported where a worker begins.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import Trainable

from kdbench.errors import listed
from kdbench.lazy import torch
from kdbench.record import Job, TrialRecord
from kdbench.search.capacity import cores
from kdbench.train.faults import Fault, fault_of
from kdbench.train.splitting import Spread

if TYPE_CHECKING:
    from kdbench.train.stream import Item

REPORT_S = 1.0  # a worker reports at most this often, so that many short epochs cost one message


class Worker(Trainable):
    """A Ray actor that runs jobs: one after another, or those of one order side by side."""

    def setup(self, config: dict[str, Any]) -> None:
        """Make room for data and teachers, and take the first order."""
        from kdbench.search.place.site import site_for
        from kdbench.train.workshop import Workshop

        self.site = site_for(config)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.shop = Workshop(self.site.store, device, source=self.site.source)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next order."""
        self.wait = new_config.get("wait")
        self.items: Iterator[Item] | None = None
        self.spoilt = False
        if self.wait is None:
            from kdbench.search.place.site import job_of

            torch.set_num_threads(min(new_config["threads"], cores()))  # the driver's node may have more
            self.orders = {(job := job_of(order)).spec.key: (job, order) for order in new_config["jobs"]}
            self.left = set(self.orders)
            self.spread = Spread.from_json(new_config["spread"])
        return True

    def keep_place(self, gate: Any, seconds: float, workers: int) -> dict[str, Any]:
        """Wait some seconds, or until as many workers are up as there should be."""
        began = time.monotonic()
        name = f"{ray.get_runtime_context().get_node_id()}:{os.getpid()}"
        try:
            while ray.get(gate.arrive.remote(name)) < workers and time.monotonic() - began < seconds:
                time.sleep(min(seconds, 0.1))
        except ray.exceptions.RayError:  # without a gate there is nobody to wait for, but this must not spin
            time.sleep(min(seconds, 1.0))
        return {"done": True}

    def step(self) -> dict[str, Any]:
        """Train for about a second, at least one epoch; at the end return the record, or a fault, as JSON text."""
        if self.spoilt:
            os._exit(1)  # with what it could not free; a new worker takes the next job
        if self.wait is not None:
            return self.keep_place(*self.wait)
        try:
            return self._train()
        except Exception as error:  # run_job has filed what is the method's; this is the machine's, or the cluster's
            from kdbench.train.run import traceback_of

            fault = fault_of(error, self.shop.store.folder)
            fault = fault or Fault("worker", f"{type(error).__name__}: {error}", traceback_of(error)[-500:])
            self.spoilt = fault.kind in ("memory", "device")
            return {"fault": json.dumps(fault.to_json()), "done": not self.spoilt}

    def _train(self) -> dict[str, Any]:
        """What a step reports: the newest point of the curves of each, and the record of one that has ended."""
        from kdbench.train.stream import run_jobs

        began = time.monotonic()
        if self.items is None:
            self.items = run_jobs([job for job, _ in self.orders.values()], self.shop, self.spread, self._begin)
        points: dict[str, dict[str, float]] = {}
        for key, item in self.items:
            if isinstance(item, TrialRecord):
                self.site.ended(item)
                self.left.discard(key)
                points.pop(key, None)
                return {"points": json.dumps(points), "record": json.dumps(item.to_json()), "done": not self.left}
            self.site.epoch(key)
            points[key] = item
            if time.monotonic() - began >= REPORT_S:
                return {"points": json.dumps(points)}
        raise RuntimeError(f"{listed(sorted(self.left))} ended without a record")

    def _begin(self, job: Job) -> None:
        self.site.begin(*self.orders[job.spec.key])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: every epoch leaves a checkpoint of kdbench's own, which the next start of the job finds."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see save_checkpoint."""
