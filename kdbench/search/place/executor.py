"""Run a study's jobs on Ray, and outlive Ray: whatever dies there, the trainings under way go back to the desk."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kdbench
from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord
from kdbench.search.drive import Desk
from kdbench.search.place import family
from kdbench.search.place.wire import Channel, Message
from kdbench.search.retry import wait_s
from kdbench.study.schema import Resources
from kdbench.train.faults import Fault

START_S = 300.0  # for Ray to start and all nodes to be checked
SILENT_S = 150.0  # Ray's slowest calls give up after 60 s, and it tries them twice
LEAVE_S, FAREWELL_S = 30.0, 5.0  # to leave the cluster, where the run is over and where Ray is lost
STARTS = 3  # attempts at the beginning
LIMIT = 8  # restarts in a row without a single epoch, over about four minutes


def python_path() -> str:
    """Where the process finds this very kdbench, and whatever else this one was told to look at."""
    own = str(Path(kdbench.__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH")]))


class LostError(Exception):
    """The process that talks to Ray, or the cluster, is gone."""


class RayExecutor:
    """Runs jobs on a Ray cluster: the one at `ray_address`, else one of its own on this machine.

    A process of its own (see `driver`) talks to Ray, because Ray ends whoever talks to it when its head dies.
    """

    def __init__(self, resources: Resources, folder: Path) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        self.resources, self.folder = resources, folder.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = ""
        try:
            self._first_start()
        except BaseException:
            self.close()
            raise

    def _first_start(self) -> None:
        """Start; on a busy machine Ray may need a second attempt. Raise KdbenchError if it does not."""
        for left in reversed(range(STARTS)):
            try:
                self._start()
            except LostError as error:
                self._end()
                if not left:
                    raise KdbenchError(
                        f"Ray did not start in {STARTS} attempts: {error}. Look at the machine's load and memory, or "
                        "run in this process with --set resources.executor=local"
                    ) from error
            else:
                return

    def _start(self) -> None:
        """Start the process and wait until its cluster is ready; sets `workers`. Raise KdbenchError or LostError."""
        self._mark = secrets.token_hex(8)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _end
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kdbench.search.place.driver", str(theirs.fileno())],
                env={**os.environ, family.MARK: self._mark, "PYTHONPATH": python_path()},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is for the run, which ends Ray in order
            )
        self._send({"start": self.resources.model_dump(mode="json"), "folder": str(self.folder)})
        limit = time.monotonic() + START_S
        while "ready" not in (message := self._receive() or {}):
            if "error" in message:
                raise KdbenchError(message["error"])
            if "lost" in message or time.monotonic() > limit:
                raise LostError(message.get("lost", f"it is not ready after {START_S:.0f} s"))
        self.workers: int = message["ready"]

    def run(self, desk: Desk) -> None:
        """Run until the desk is over. Where Ray is lost, start again with a growing pause, and give up after LIMIT
        times in a row in which nothing was trained (KdbenchError; everything that was filed is kept)."""
        failures = 0
        running = True
        while True:
            news = desk.news
            try:
                if not running:
                    self._start()
                running = True
                self._serve(desk)
                if desk.over:
                    return
                reason = "Ray Tune ended before the study did"
            except LostError as error:
                reason = str(error)
            except KdbenchError as error:
                if running:
                    raise
                reason = str(error)  # a cluster that is not ours may come back
            failures = 1 if desk.news > news else failures + 1
            desk.put_back(f"Ray was lost: {reason}")
            self._end()
            running = False
            if failures > LIMIT:
                raise KdbenchError(
                    f"Ray was lost {failures} times in a row, the last time because: {reason}. Every finished training "
                    "is kept; see to the cluster, and run the same command again to go on."
                )
            desk.say(f"Ray was lost ({reason}). Its trainings go on from their checkpoints once it is back.")
            time.sleep(wait_s(failures))

    def _serve(self, desk: Desk) -> None:
        """Answer the process until it is done. Raise LostError if it dies or falls silent."""
        self._send({"run": desk.agenda.left() + 1})
        heard = time.monotonic()
        while True:
            message = self._receive()
            if message is None:
                if time.monotonic() - heard > SILENT_S:
                    raise LostError(f"no sign of life for {SILENT_S:.0f} s")
                continue
            if "done" in message:
                return
            if "lost" in message:
                self._leave(FAREWELL_S)
                raise LostError(message["lost"])
            if "error" in message:
                raise KdbenchError(message["error"])
            self._answer(desk, message)
            heard = time.monotonic()

    def _answer(self, desk: Desk, message: Message) -> None:
        if "next" in message:
            job = desk.next()
            jobs = [] if job is None else [job, *desk.beside(job, message["next"], self.workers)]
            self._send({"jobs": [job.to_json() for job in jobs], "over": desk.over})
        elif "epoch" in message:
            desk.epoch(message["epoch"], message["point"])
        elif "ended" in message:
            desk.ended(TrialRecord.from_json(message["ended"]))
            self._send({"filed": True})
        elif "broke" in message:
            desk.broke(message["broke"], Fault.from_json(message["fault"]), message["together"])
        elif "say" in message:
            desk.say(message["say"])

    def _send(self, message: Message) -> None:
        try:
            self._channel.send(message)
        except EOFError as error:
            raise LostError(self._last_words()) from error

    def _receive(self) -> Message | None:
        """The next message, or None if there is none within a second."""
        try:
            return self._channel.receive(1.0)
        except EOFError as error:
            raise LostError(self._last_words()) from error

    def _last_words(self) -> str:
        """How the process ended, and the last thing that it said."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        last = f"; its last words: {said[-1].strip()[:300]}" if said else ""
        return f"the process that talks to it ended with status {self._process.returncode}{last}"

    def _end(self) -> None:
        """End the process and all that it has started."""
        if self._process is None:
            return
        self._channel.close()
        family.end(self._mark)
        self._process.kill()
        self._process.wait()
        self._process = None
        self._log.close()

    def close(self) -> None:
        """Leave the cluster in order, which shuts it down if it is our own; without waiting for ever."""
        if self._process is None:
            return
        if hasattr(self, "workers"):
            self._leave(LEAVE_S)
        self._end()

    def _leave(self, seconds: float) -> None:
        """Ask the process to leave the cluster, and give it some time."""
        with contextlib.suppress(LostError, subprocess.TimeoutExpired):
            self._send({"close": True})
            if self._process is not None:
                self._process.wait(timeout=seconds)
