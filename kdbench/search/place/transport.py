"""What the driver does so that workers on nodes without a shared folder have what they need."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdbench.record import Job
from kdbench.search.place import scratch
from kdbench.search.place.connect import address_of, environment_of_driver, nodes
from kdbench.search.place.inspection import hash_of_package
from kdbench.search.place.tickets import ticket_for
from kdbench.store import Store
from kdbench.study.schema import Resources

if TYPE_CHECKING:
    from kdbench.search.place.storage import CheckpointStorage

CLEANING_S = 20.0


class Transport:
    """The driver's side, for one study on one connection to a cluster.

    On a cluster of our own on this machine there is nothing to do: workers use the study's folder. Elsewhere workers on
    the driver's node do so too, and the others have a folder of their own and deal with the depot.
    """

    def __init__(self, store: Store, resources: Resources) -> None:
        self.store = store
        self.home = ray.get_runtime_context().get_node_id()
        self.storage: CheckpointStorage | None = None
        self._common: dict[str, Any] = {"folder": str(store.folder)}
        self._secret = secrets.token_hex(16)
        self.scratch: str | None = None
        if address_of(resources) == "local" and len(nodes()) == 1:
            return
        from kdbench.search.place.depot import Depot  # with torch, as the storage

        if resources.storage is not None:
            from kdbench.search.place.storage import CheckpointStorage

            self.storage = CheckpointStorage(resources.storage, store.folder.name)
        self.scratch = f"{store.folder.name}-{secrets.token_hex(6)}"
        environment = environment_of_driver()
        depot = self.actor(Depot, str(store.folder), environment, self._secret, restarts=-1)
        self._common |= {
            "home": self.home,
            "depot": depot,
            "environment": environment,
            "scratch": self.scratch,
            "study": store.folder.name,
            "storage": resources.storage,
            "kdbench_sha256": hash_of_package("kdbench"),
        }

    def config(self, jobs: Iterable[Job] = ()) -> dict[str, Any]:
        """What a worker is told: where its files are and, with jobs, each and the ticket for what it needs."""
        texts = [json.dumps(job.to_json()) for job in jobs]
        return {**self._common, "jobs": [{"job": text, "ticket": ticket_for(self._secret, text)} for text in texts]}

    def actor(self, kind: type, *arguments: Any, restarts: int = 0) -> Any:
        """An actor on the driver's node, which no other node takes along when it dies."""
        made: Any = ray.remote(num_cpus=0, max_restarts=restarts, max_task_retries=restarts)(kind)
        pinned = NodeAffinitySchedulingStrategy(self.home, soft=False)
        return made.options(scheduling_strategy=pinned).remote(*arguments)

    def filed(self, key: str) -> None:
        """A record is filed: its checkpoint is not needed any more."""
        if self.storage is not None:
            self.storage.remove(key)

    def close(self) -> None:
        """Remove the folders of this run's workers from all nodes that still answer, within CLEANING_S seconds."""
        if self.scratch is None or not ray.is_initialized():
            return
        ray.kill(self._common["depot"])
        clean = ray.remote(num_cpus=0, max_retries=0)(scratch.remove)
        others = [node.id for node in nodes() if node.id != self.home]
        done = [
            clean.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(self.scratch)
            for node in others
        ]
        if done:
            ray.wait(done, num_returns=len(done), timeout=CLEANING_S)
