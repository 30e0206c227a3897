"""The process that talks to Ray, for a run that must outlive it: Ray ends its driver when the cluster's head dies.

`python -m kdbench.search.place.driver FD`: reads messages on the socket FD (see `wire`), gets its jobs and brings its
records there, and ends when the other end does. No Tune state is ever read back.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import ray
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner

from kdbench.errors import KdbenchError
from kdbench.record import Job, TrialRecord
from kdbench.search.capacity import gpus_per_trial, require_gpus, spread_for, visible_gpus, workers_on
from kdbench.search.place import family
from kdbench.search.place.connect import address_of, connect, nodes
from kdbench.search.place.searcher import DeskSearcher
from kdbench.search.place.transport import Transport
from kdbench.search.place.watch import RoomError, Watch
from kdbench.search.place.wire import Channel, Message
from kdbench.search.place.worker import Worker
from kdbench.store import Store
from kdbench.study.schema import Resources
from kdbench.train.faults import Fault
from kdbench.train.splitting import Spread

HEAD_GONE_S = "20"  # Ray's own limit is 60; after it the driver's process ends


class Parent:
    """The desk of the run, at the other end of the socket."""

    def __init__(self, channel: Channel, mark: str) -> None:
        self.channel, self.mark = channel, mark
        self.over = False
        self.closing = threading.Event()
        self._inbox: queue.Queue[Message] = queue.Queue()
        self._sending = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """Pass messages on to the main thread, which may be stuck in Ray; end this process with the run."""
        try:
            while (message := self.channel.receive()) is not None:
                if "close" in message:
                    self.closing.set()
                self._inbox.put(message)
        except EOFError:
            family.end(self.mark, seconds=2.0)
            os._exit(1)

    def tell(self, message: Message) -> None:
        """Send a message that has no answer."""
        with self._sending:
            self.channel.send(message)

    def wait_for(self, name: str) -> Message:
        """The next message with that name. Raise KeyboardInterrupt where the run wants to end."""
        while name not in (message := self._inbox.get()):
            if "close" in message:
                raise KeyboardInterrupt
        return message

    def next(self, most: int) -> list[Job]:
        """The next job, with others that share a stream with it; none if none can start now; sets `over`."""
        self.tell({"next": most})
        answer = self.wait_for("jobs")
        self.over = answer["over"]
        return [Job.from_json(job) for job in answer["jobs"]]

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        """Pass on a training's progress."""
        self.tell({"epoch": key, "point": dict(point)})

    def ended(self, record: TrialRecord) -> None:
        """Have a record filed; returns once it is."""
        self.tell({"ended": record.to_json()})
        self.wait_for("filed")

    def broke(self, key: str, fault: Fault, together: bool) -> None:
        """A start of a training ended in a fault."""
        self.tell({"broke": key, "fault": fault.to_json(), "together": together})


class Driver:
    """Runs jobs on a Ray cluster: the one at `ray_address`, else one of its own on this machine."""

    def __init__(self, resources: Resources, folder: Path) -> None:
        self.resources = resources
        if address_of(resources) == "local":
            os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", HEAD_GONE_S)
        connect(resources)
        self.transport: Transport | None = None
        found = nodes()
        self.gpus_per_trial = gpus_per_trial(resources, sum(node.gpus for node in found))
        self.workers = workers_on(resources, found)
        own_machine = address_of(resources) == "local"
        self.gpus = sum(node.gpus for node in found)
        self.own_gpus = visible_gpus(int(self.gpus)) if own_machine else ()
        require_gpus(resources, self.gpus, own_machine=own_machine)
        self.transport = Transport(Store(folder), resources)

    def run(self, parent: Parent, workers: int) -> None:
        """Run until the desk is over; KeyboardInterrupt and whatever ends Tune go through."""
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers)
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        bundle = {"CPU": float(self.resources.cpus_per_trial)}
        if self.gpus_per_trial:
            bundle["GPU"] = self.gpus_per_trial
        assert self.transport is not None
        searcher = DeskSearcher(parent, workers, self.resources, self.transport, self.spread)
        storage = tempfile.mkdtemp(prefix="kdbench-tune-")  # nothing is read back, and the study's disk may be full
        tuner = Tuner(
            tune.with_resources(Worker, PlacementGroupFactory([bundle])),
            tune_config=TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=RunConfig(
                name="tune",
                storage_path=storage,
                verbose=0,
                failure_config=FailureConfig(max_failures=0),  # the desk starts trainings again, with a pause
                # Tune would save one at the end of a trial, and look for it in a folder that workers elsewhere lack
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
                callbacks=[Watch(parent, searcher, bundle)],
            ),
        )
        try:
            tuner.fit()
        except Exception as error:
            searcher.blame(str(error))
            raise
        finally:
            shutil.rmtree(storage, ignore_errors=True)

    def spread(self, phase: str) -> Spread:
        """Over how many processes a training of a phase is spread."""
        return spread_for(self.resources, phase, self.gpus, self.own_gpus)

    def close(self) -> None:
        """Leave the cluster, and shut it down if it is our own."""
        if self.transport is not None:
            self.transport.close()
        ray.shutdown()


def main() -> None:
    """Serve one run."""
    parent = Parent(Channel(socket.socket(fileno=int(sys.argv[1]))), os.environ[family.MARK])
    order = parent.wait_for("start")
    driver = None
    try:
        driver = Driver(Resources.model_validate(order["start"]), Path(order["folder"]))
        parent.tell({"ready": driver.workers})
        driver.run(parent, min(driver.workers, parent.wait_for("run")["run"]))
        parent.tell({"done": True})
        parent.wait_for("close")
    except KeyboardInterrupt:
        pass
    except (KdbenchError, RoomError) as error:
        parent.tell({"error": str(error)})
    except Exception as error:  # of Ray or Tune: the run decides what to do, and the traceback goes to its log
        last = (str(error).strip() or "no reason given").splitlines()[-1]  # Tune's errors hold whole tracebacks
        parent.tell({"lost": re.sub(r"\s+", " ", f"{type(error).__name__}: {last}")[:500]})
        raise
    finally:
        if driver is not None:
            driver.close()


if __name__ == "__main__":
    main()
