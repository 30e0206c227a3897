"""The driver's end of what travels: an actor on its node that gives images, weights and notes to workers elsewhere.

It asks for a ticket with every job, which the driver has signed: a worker gets what its own job may see, and no more.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from kdbench.errors import KdbenchError, listed
from kdbench.record import Job, TrialSpec, canonical_json
from kdbench.search.place.parcels import pack, pack_test
from kdbench.search.place.tickets import ticket_for
from kdbench.store import Store, write_atomic
from kdbench.train.starts import note_start
from kdbench.train.workshop import TEST_PHASES, Folder

NOTES = ("starts.txt", "error.txt", "set_aside.txt", "evaluated.json")
Claim = tuple[str, str]  # a job as JSON text, and its ticket


class Depot:
    """Gives and takes for one study. Everything is loaded at its first use and put into the object store once.

    folder: the study's. environment: where the driver's data lie. secret: of the tickets.
    """

    def __init__(self, folder: str, environment: dict[str, str], secret: str) -> None:
        os.environ.update(environment)
        self.store = Store(Path(folder))
        self.source = Folder(self.store)
        self.secret = secret
        self._kept: dict[tuple[str, ...], Any] = {}

    def _job(self, claim: Claim) -> Job:
        """The job of a claim. Raise KdbenchError unless the driver has signed it."""
        if not hmac.compare_digest(ticket_for(self.secret, claim[0]), claim[1]):
            raise KdbenchError("a worker asked for what belongs to a job that was not handed out")
        return Job.from_json(json.loads(claim[0]))

    def _put(self, name: tuple[str, ...], make: Callable[[], Any]) -> list[Any]:
        """A reference to an object of the store, in a list so that Ray passes it on as one."""
        if name not in self._kept:
            self._kept[name] = ray.put(make())
        return [self._kept[name]]

    def splits(self, claim: Claim, config: dict[str, Any]) -> list[Any]:
        """Training and validation images of a data configuration that the job names."""
        job = self._job(claim)
        if config not in [dict(spec.data) for spec in (job.spec, *job.needs)]:
            raise KdbenchError(f"the job {job.spec.key} does not name these data: {canonical_json(config)}")
        return self._put(("splits", canonical_json(config)), lambda: pack(self.source.splits(config)))

    def test(self, claim: Claim) -> list[Any]:
        """The test images, for a job of a phase that may see them."""
        spec = self._job(claim).spec
        if spec.phase not in TEST_PHASES:
            raise KdbenchError(f"a {spec.phase} training must not see the test split")
        config = dict(spec.data)
        return self._put(("test", canonical_json(config)), lambda: pack_test(self.source.splits(config, test=True)))

    def weights(self, claim: Claim, key: str, role: str) -> list[Any]:
        """The content of a file of trained weights that the job needs. Raise CheckpointError if there is none."""
        path = self.source.weights(self._needed(claim, key), role)
        return self._put(("weights", key), path.read_bytes)

    def _needed(self, claim: Claim, key: str) -> TrialSpec:
        needs = {spec.key: spec for spec in (*self._job(claim).needs, self._job(claim).spec)}
        if key not in needs:
            raise KdbenchError(f"the job does not need the weights of {key}, but of {listed(needs)}")
        return needs[key]

    def plugins(self) -> list[tuple[str, bytes]]:
        """Name and content of every plug-in file that the user named, in their order."""
        named = [Path(part) for part in os.environ.get("KDBENCH_PLUGINS", "").split(os.pathsep) if part]
        return [(path.name, path.read_bytes()) for path in named]

    def begin(self, claim: Claim) -> dict[str, str]:
        """Count a start of the job; returns the notes that its earlier starts left, by name."""
        folder = self.store.work_folder(self._job(claim).spec.key)
        notes = {name: (folder / name).read_text() for name in NOTES if (folder / name).exists()}
        note_start(folder)
        return notes

    def note(self, claim: Claim, name: str, text: str) -> None:
        """Leave a note in the work folder of the job. Raise KdbenchError for a name that is no note."""
        if name not in NOTES:
            raise KdbenchError(f"got '{name}' as a note of a training. Allowed: {listed(NOTES)}.")
        write_atomic(self.store.work_folder(self._job(claim).spec.key) / name, text.encode(), durable=False)

    def bring(self, claim: Claim, content: bytes) -> None:
        """Take the network that the job has trained, before its record is filed."""
        write_atomic(self.store.weights_path(self._job(claim).spec.key), content)
