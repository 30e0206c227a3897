"""What is looked at while Tune runs: that the cluster lives, that workers come up, that the run still wants it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from kdbench.errors import KdbenchError

if TYPE_CHECKING:
    from kdbench.search.place.driver import Parent
    from kdbench.search.place.searcher import DeskSearcher

BEAT_S = 5.0
ROOM_S = 60.0  # without a worker, after which a person is told what is waited for
NO_ROOM_S = 1800.0  # and after which the run ends: a cluster that grows by demand has had its time


class RoomError(KdbenchError):
    """No worker has come up for half an hour."""


class ClusterLostError(Exception):
    """The node that this process belongs to is gone."""


class Watch(tune.Callback):
    """Looks after each of Tune's steps, of which there are several a second."""

    def __init__(self, parent: Parent, searcher: DeskSearcher, bundle: dict[str, float]) -> None:
        self.parent, self.searcher, self.bundle = parent, searcher, bundle
        self.home = ray.get_runtime_context().get_node_id()
        self._beat = self._worked = time.monotonic()
        self._told = 0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its callbacks to disk, and kdbench never reads them back."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Raise KeyboardInterrupt where the run wants to end, and ClusterLostError or RoomError."""
        if self.parent.closing.is_set():
            raise KeyboardInterrupt
        now = time.monotonic()
        if now - self._beat < BEAT_S:
            return
        self._beat = now
        self.parent.tell({"alive": True})
        self.require_cluster()
        if any(trial.status == Trial.RUNNING for trial in trials):
            self._worked, self._told = now, 0
        else:
            self._look_for_room(now - self._worked)

    def require_cluster(self) -> None:
        """Raise ClusterLostError if the node of this process is dead."""
        if not any(node["NodeID"] == self.home and node["Alive"] for node in ray.nodes()):
            raise ClusterLostError("the Ray node of this machine has died")

    def _look_for_room(self, waited_s: float) -> None:
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in self.bundle.items())
        free = ray.available_resources()
        there = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in self.bundle)
        text = f"waiting for Ray to start a worker with {wanted}; free in the cluster now: {there}"
        if waited_s > NO_ROOM_S:
            raise RoomError(
                f"Ray has started no worker for {waited_s / 60:.0f} minutes: {text}. Make room or start nodes, and run "
                "the same command again to go on."
            )
        if waited_s > ROOM_S * 2**self._told:
            self._told += 1
            self.parent.tell({"say": f"No worker for {waited_s:.0f} s: {text}."})

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A worker died, or raised what it should not: tell with Ray's own words."""
        self.require_cluster()
        path = trial.error_file
        text = Path(path).read_text(errors="replace") if path is not None and Path(path).exists() else ""
        self.searcher.died(trial.trial_id, text)
