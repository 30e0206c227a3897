"""Where a worker keeps its files, and where its images and weights come from: on the driver's node, or on another."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray

from kdbench import data
from kdbench.errors import KdbenchError
from kdbench.record import Job, TrialRecord, TrialSpec, canonical_json
from kdbench.search.place.depot import NOTES, Claim
from kdbench.search.place.inspection import hash_of_package
from kdbench.search.place.parcels import unpack, with_test
from kdbench.search.place.scratch import Scratch
from kdbench.search.place.storage import CheckpointStorage
from kdbench.store import Store, write_atomic
from kdbench.train.workshop import Folder, Source

ATTEMPTS = 3


class Site:
    """A worker on the driver's node: it works in the study's own folder."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        os.environ.update(config.get("environment", {}))
        self.store = Store(Path(config["folder"]))
        self.source: Source = Folder(self.store)
        url = config.get("storage")
        self.storage = CheckpointStorage(url, Path(config["folder"]).name) if url is not None else None

    def begin(self, job: Job, order: Mapping[str, Any]) -> None:
        """Get ready for a job, as it was ordered: bring what an earlier start of it has left elsewhere."""
        if self.storage is not None:
            with machine_errors():
                self.storage.pull(self.store.work_folder(job.spec.key))

    def epoch(self, key: str) -> None:
        """A training has finished an epoch: keep what must outlive this node."""
        if self.storage is not None:
            self.storage.push(self.store.work_folder(key))

    def note(self, key: str, name: str, text: str) -> None:
        """Leave a note about a training for the driver."""
        write_atomic(self.store.work_folder(key) / name, text.encode(), durable=False)

    def ended(self, record: TrialRecord) -> None:
        """A training has its record: hand over what it made, before the record is filed."""


class RemoteSite(Site):
    """A worker on another node: it works in a folder of this node, and what it needs and makes goes over the depot."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.scratch = Scratch(config["scratch"])
        super().__init__({**config, "environment": {}, "folder": self.scratch.folder / config["study"]})
        require_same_source(config["kdbench_sha256"])
        self.depot = config["depot"]
        self.source = RemoteSource(self.store, self.depot)
        self.claims: dict[str, Claim] = {}  # by key, of the jobs under way
        self._told: dict[tuple[str, str], str] = {}
        self._load_plugins()

    def _load_plugins(self) -> None:
        """Name the user's plug-in files to this process, as copies: the driver's paths mean nothing here."""
        paths = []
        for name, content in asked(lambda: self.depot.plugins.remote()):
            folder = self.scratch.folder / "plugins" / hashlib.sha256(content).hexdigest()[:16]
            write_atomic(folder / Path(name).name, content, durable=False)
            paths.append(str(folder / Path(name).name))
        os.environ["KDBENCH_PLUGINS"] = os.pathsep.join(paths)

    def begin(self, job: Job, order: Mapping[str, Any]) -> None:
        """Get ready for a job: its notes from the driver, its checkpoint from the storage."""
        claim: Claim = (order["job"], order["ticket"])
        self.source.claim = claim  # type: ignore[attr-defined]
        self.claims[job.spec.key] = claim
        folder = self.store.work_folder(job.spec.key)
        for name, text in asked(lambda: self.depot.begin.remote(claim)).items():
            if name == "starts.txt" or not (folder / name).exists():
                write_atomic(folder / name, text.encode(), durable=False)
        super().begin(job, order)

    def epoch(self, key: str) -> None:
        """Pass on notes that are new, then as on the driver's node."""
        for name in set(NOTES) - {"starts.txt", "error.txt"}:
            path = self.store.work_folder(key) / name
            if path.exists() and self._told.get((key, name)) != (text := path.read_text()):
                self.note(key, name, text)
        super().epoch(key)

    def note(self, key: str, name: str, text: str) -> None:
        """Leave a note in the study's own folder."""
        asked(lambda: self.depot.note.remote(self.claims[key], name, text))
        self._told[key, name] = text

    def ended(self, record: TrialRecord) -> None:
        """Send the trained network, if there is one, and forget the training."""
        path = self.store.weights_path(record.key)
        if record.status == "finished" and record.spec.phase != "search" and path.exists():
            content = path.read_bytes()
            asked(lambda: self.depot.bring.remote(self.claims[record.key], content))
        self.claims.pop(record.key, None)
        shutil.rmtree(self.store.work_folder(record.key), ignore_errors=True)


class RemoteSource:
    """Images and weights from the driver's node, over the object store: each is fetched once by a node."""

    def __init__(self, store: Store, depot: Any) -> None:
        self.store, self.depot = store, depot
        self.claim: Claim = ("", "")
        self._splits: dict[str, data.Splits] = {}

    def splits(self, config: Mapping[str, Any], *, test: bool = False) -> data.Splits:
        """As `kdbench.data.load`; the depot refuses the test images to a job that must not see them."""
        name = canonical_json(dict(config))
        if name not in self._splits:
            self._splits[name] = unpack(fetched(lambda: self.depot.splits.remote(self.claim, dict(config))))
        if not test:
            return self._splits[name]
        return with_test(self._splits[name], fetched(lambda: self.depot.test.remote(self.claim)))

    def weights(self, spec: TrialSpec, role: str) -> Path:
        """The file of the weights that a training left, brought here. Raise CheckpointError if there are none."""
        path = self.store.weights_path(spec.key)
        if not path.exists():
            write_atomic(path, fetched(lambda: self.depot.weights.remote(self.claim, spec.key, role)), durable=False)
        return path


def site_for(config: Mapping[str, Any]) -> Site:
    """The site of this process. config: as `Transport.config` makes it."""
    home = config.get("home")
    if home is None or ray.get_runtime_context().get_node_id() == home:
        return Site(config)
    return RemoteSite(config)


def asked(call: Callable[[], Any]) -> Any:
    """What the depot answers. Its own errors are raised as they are, those of Ray as ConnectionError."""
    with machine_errors():
        return ray.get(call())


def fetched(call: Callable[[], Any]) -> Any:
    """The object that the depot's answer refers to. A depot that died has taken its objects along: then ask again."""
    for attempt in range(1, ATTEMPTS + 1):
        with machine_errors():
            try:
                return ray.get(ray.get(call())[0])
            except (ray.exceptions.ObjectLostError, ray.exceptions.RayActorError):
                if attempt == ATTEMPTS:
                    raise
    raise AssertionError("unreachable")


@contextlib.contextmanager
def machine_errors() -> Iterator[None]:
    """Make ConnectionError, an error of the machine, of what Ray raises for itself: it says nothing of a training."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        text = " ".join(str(error).split())[:300]
        raise ConnectionError(f"the driver's node could not be reached ({type(error).__name__}: {text})") from error


def require_same_source(expected: str) -> None:
    """Raise KdbenchError on a node that joined after the preflight with another kdbench."""
    found = hash_of_package("kdbench")
    if found != expected:
        raise KdbenchError(
            f"node {socket.gethostname()}: the source of kdbench is another one ({str(found)[:12]}, on the driver's "
            f"node {expected[:12]}). Install the same kdbench there."
        )


def job_of(order: Mapping[str, Any]) -> Job:
    """One of the `jobs` of a worker's configuration."""
    return Job.from_json(json.loads(order["job"]))
