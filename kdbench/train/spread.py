"""One training over several processes of a machine: start them, and see to it that none waits for one that died."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import kdbench
from kdbench.errors import KdbenchError, MethodError
from kdbench.record import Job, TrialRecord
from kdbench.train.faults import Fault, ProcessFaultError
from kdbench.train.parcel import pack
from kdbench.train.splitting import Spread, refusal, unsplittable
from kdbench.train.workshop import Workshop

TIMEOUT_S = 1800.0  # that a process waits for the others in one step: the first epoch may fill a view cache
LOOK_S = 0.2  # between two looks at the processes
GRACE_S = 2.0  # in which a broken connection has to turn out to be the death of a process
BROKEN = ("/gloo/", "DistError", "DistBackendError", "DistNetworkError", "DistStoreError", "NCCL")


class Rank:
    """One of the processes. messages: what it has told and nobody has read."""

    def __init__(self, number: int, order: Mapping[str, Any], environment: Mapping[str, str], log: Path) -> None:
        self.number, self.log, self.rest = number, log, b""
        self.channel, theirs = os.pipe()
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kdbench.train.distributed"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[theirs],
                start_new_session=True,  # Ctrl-C is the worker's business
            )
        os.close(theirs)
        try:
            self.process.stdin.write(json.dumps({**order, "rank": number, "channel": theirs}).encode() + b"\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass  # it is dead, which the next look notices

    def messages(self) -> Iterator[dict[str, Any]]:
        """What there is to read now; waits for it if there is nothing yet."""
        *lines, self.rest = (self.rest + os.read(self.channel, 1 << 16)).split(b"\n")
        yield from map(json.loads, lines)

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def obituary(self) -> str:
        """How it ended, on one line."""
        code = self.process.poll() or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        text = self.log.read_text(errors="replace").strip() if self.log.exists() else ""
        last = f" ({text.splitlines()[-1][:300]})" if text and code > 0 else ""
        return f"process {self.number + 1} {how}{last}"

    def end(self) -> None:
        """End it, and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()  # type: ignore[union-attr]
        os.close(self.channel)


def run_spread(
    job: Job, shop: Workshop, spread: Spread, timeout_s: float = TIMEOUT_S
) -> Iterator[dict[str, float] | TrialRecord]:
    """Run a job over several processes: yield the curves' point of each epoch, and at last the record.

    Raise ProcessFaultError if one of them dies or meets a fault of the machine: all others are ended, and the job goes
    on from its checkpoint when it is run again, with as many processes, fewer or more. Raise MethodError for a method
    that cannot be divided, KdbenchError where there are too few GPUs.
    """
    if names := unsplittable(job.spec.method):
        raise MethodError(refusal(names, "Set gpus_per_trial: 1 and processes_per_trial: 1"))
    folder = shop.store.work_folder(job.spec.key)
    folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, torch.get_num_threads() // spread.processes)
    environment = environment_of_ranks(spread, threads, cuda=shop.device.type == "cuda")
    with tempfile.TemporaryDirectory(prefix="kdbench-") as meeting:
        order = {
            "job": job.to_json(),
            "folder": str(shop.store.folder.resolve()),
            "parcel": pack(job, shop, Path(meeting) / "parcel"),
            "use_cache": shop.use_cache,
            "cuda": shop.device.type == "cuda",
            "threads": threads,
            "processes": spread.processes,
            "meeting": str(Path(meeting) / "meeting"),
            "timeout_s": timeout_s,
        }
        ranks: list[Rank] = []
        try:
            for number in range(spread.processes):
                ranks.append(Rank(number, order, environment, folder / f"process{number + 1}.log"))
            yield from watched(ranks)
        finally:
            for rank in ranks:
                rank.end()


def environment_of_ranks(spread: Spread, threads: int, *, cuda: bool) -> dict[str, str]:
    """Environment of the processes: they talk over the loopback device, and see their GPUs alone."""
    own = {"OMP_NUM_THREADS": str(threads)}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        own |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    root = str(Path(kdbench.__file__).resolve().parents[1])
    if root != sysconfig.get_paths()["purelib"]:
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    if cuda:
        have = len(spread.gpus) or torch.cuda.device_count()
        if have < spread.processes:
            raise KdbenchError(
                f"a training over {spread.processes} GPUs has {have} of them here. Lower resources.gpus_per_trial or "
                "resources.gpus_per_teacher."
            )
        if spread.gpus:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(spread.gpus[: spread.processes])
    return {**os.environ, **own}


def watched(ranks: list[Rank]) -> Iterator[dict[str, float] | TrialRecord]:
    """Pass on what the processes tell, until the record; raise what `run_spread` does. All are still there then."""
    broken: tuple[float, TrialRecord] | None = None  # when, and how a process said that it cannot reach another
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.channel, selectors.EVENT_READ, rank)
        while True:
            dead = [rank for rank in ranks if rank.dead]  # before the messages, so that its last words are read
            ready = [key.data for key, _ in selector.select(0 if dead else LOOK_S)]
            for message in (message for rank in ready for message in rank.messages()):
                if "point" in message:
                    yield message["point"]
                elif "fault" in message:
                    raise ProcessFaultError(Fault.from_json(message["fault"]))
                elif is_broken(record := TrialRecord.from_json(message["record"])):
                    broken = broken or (time.monotonic(), record)
                else:
                    yield record
                    return
            if dead:
                raise lost(f"of {len(ranks)} processes that trained together, {dead[0].obituary()}")
            if broken is not None and time.monotonic() - broken[0] > GRACE_S:
                raise lost(f"{len(ranks)} processes that trained together lost touch: {broken[1].error}")


def lost(reason: str) -> ProcessFaultError:
    """The error of a training whose processes are not all there any more."""
    return ProcessFaultError(Fault("worker", reason))


def is_broken(record: TrialRecord) -> bool:
    """Whether a training failed because a process could not reach another one, which says nothing of the method."""
    return record.status == "failed" and any(mark in str(record.error) for mark in BROKEN)
