"""What runs on a node of the cluster: an actor that trains one job after another."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray.tune import Trainable

from kdbench.record import Job, TrialRecord
from kdbench.store import Store
from kdbench.train.run import run_job
from kdbench.train.workshop import Workshop

REPORT_S = 1.0  # a worker reports at most this often, so that many short epochs cost one message


class Gate:
    """Counts the workers that are up."""

    def __init__(self) -> None:
        self.up: set[int] = set()

    def arrive(self, worker: int) -> int:
        """Note that a worker is up; returns how many have been."""
        self.up.add(worker)
        return len(self.up)


class Worker(Trainable):
    """A Ray actor that runs one job after another."""

    def setup(self, config: dict[str, Any]) -> None:
        """Make room for data and teachers, and take the first job."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.shop = Workshop(Store(Path(config["folder"])), device)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job."""
        self.wait = new_config.get("wait")
        if self.wait is None:
            torch.set_num_threads(new_config["threads"])
            self.job = Job.from_json(json.loads(new_config["job"]))
            self.items: Iterator[dict[str, float] | TrialRecord] = run_job(self.job, self.shop)
        return True

    def keep_place(self, gate: Any, seconds: float, workers: int) -> dict[str, Any]:
        """Wait some seconds, or until as many workers are up as there should be."""
        began = time.monotonic()
        while ray.get(gate.arrive.remote(os.getpid())) < workers and time.monotonic() - began < seconds:
            time.sleep(min(seconds, 0.1))
        return {"done": True}

    def step(self) -> dict[str, Any]:
        """Train for about a second, at least one epoch; at the end return the record as JSON text."""
        if self.wait is not None:
            return self.keep_place(*self.wait)
        began = time.monotonic()
        key = self.job.spec.key
        try:
            for item in self.items:
                if isinstance(item, TrialRecord):
                    return {"key": key, "record": json.dumps(item.to_json()), "done": True}
                if time.monotonic() - began >= REPORT_S:
                    return {"key": key, "point": json.dumps(item)}
        except (MemoryError, OSError, torch.cuda.OutOfMemoryError) as error:
            note = self.shop.store.work_folder(key) / "error.txt"
            note.write_text(f"{type(error).__name__}: {error}")
            raise
        raise RuntimeError(f"job {key} ended without a record")

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: every epoch leaves a checkpoint of kdbench's own, which the next start of the job finds."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see save_checkpoint."""
