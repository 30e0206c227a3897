"""Run a study's jobs on Ray Tune; no Tune state is ever read back."""

from __future__ import annotations

import os
from pathlib import Path

import ray
from ray import tune
from ray.tune import FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.error import TuneError

from kdbench.errors import KdbenchError
from kdbench.search.capacity import gpus_per_trial, workers_for
from kdbench.search.drive import Desk
from kdbench.search.place.connect import connect
from kdbench.search.place.searcher import DeskSearcher
from kdbench.search.place.worker import Worker
from kdbench.study.schema import Resources


class RayExecutor:
    """Runs jobs on a Ray cluster: the one at `ray_address`, else one of its own on this machine."""

    def __init__(self, resources: Resources, folder: Path) -> None:
        self.resources = resources
        self.folder = folder
        self._own = connect(resources)
        have = ray.cluster_resources()
        self.gpus_per_trial = gpus_per_trial(resources, have.get("GPU", 0.0))
        try:
            self.workers = workers_for(resources, have.get("CPU", 1.0), have.get("GPU", 0.0))
        except KdbenchError:
            self.close()
            raise

    def run(self, desk: Desk) -> None:
        """Run until the desk is over. Tune turns Ctrl-C into an early, orderly return."""
        workers = min(self.workers, desk.agenda.left() + 1)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers)
        bundle = {"CPU": float(self.resources.cpus_per_trial)}
        if self.gpus_per_trial:
            bundle["GPU"] = self.gpus_per_trial
        searcher = DeskSearcher(desk, workers, self.resources)
        tuner = Tuner(
            tune.with_resources(Worker, PlacementGroupFactory([bundle])),
            tune_config=TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
            run_config=RunConfig(
                name="tune",
                storage_path=str(self.folder / "work" / "ray"),
                verbose=0,
                failure_config=FailureConfig(max_failures=self.resources.max_retries),
            ),
        )
        try:
            tuner.fit()
        except (TuneError, ray.exceptions.RayError) as error:
            raise KdbenchError(
                f"Ray Tune stopped ({type(error).__name__}: {' '.join(str(error).split())[-500:]}). Every finished "
                "training is kept; run the same command again to go on."
            ) from error

    def close(self) -> None:
        """Shut down the cluster if it is our own."""
        if self._own:
            ray.shutdown()
