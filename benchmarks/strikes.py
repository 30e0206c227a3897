"""What may happen to a run: kills, damaged files, a full disk, a locked database. See soak.py, which deals them out."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from kdbench.errors import RecordError
from kdbench.store import Store

DRIVER = "kdbench.search.place.driver"
WORKER = "ray::ResourceTrainable"  # how Ray calls a process that trains
EXIT_S = 240.0  # after a signal; SIGTERM has a grace period of 25 s, the others close Ray, MLflow and the report
REFUSAL_S = 180.0  # for a second run to say that there is a first one
HOLD_S = (2.0, 6.0)  # how long a disk is full, or a database locked


class OverdueError(Exception):
    """Something has taken longer than it may."""


@dataclass
class Target:
    """The run that is struck, and what is known of what was done to it.

    command: starts it. folder: of its study. cache: KDBENCH_CACHE. disk: a small file system of its own that holds
    both, or None. damaged: names of damaged files. killed: whether the run was asked, or forced, to end.
    """

    command: list[str]
    environment: dict[str, str]
    folder: Path
    cache: Path
    disk: Path | None
    log: Path
    random: random.Random
    run: subprocess.Popen[bytes] | None = None
    killed: bool = False
    damaged: list[str] = field(default_factory=list)
    starts: int = 0

    def start(self) -> None:
        """Start the run; what it says is added to the log."""
        with self.log.open("ab") as out:
            self.run = self.spawn(out)
        self.killed = False
        self.starts += 1

    def spawn(self, out: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start the command."""
        return subprocess.Popen(
            self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    @property
    def alive(self) -> bool:
        """Whether the run is there."""
        return self.run is not None and self.run.poll() is None

    def works(self) -> bool:
        """Whether the run has come so far that it holds the study's lock, and so listens to signals."""
        by = Store(self.folder).holder() if self.folder.exists() else None
        return self.alive and by is not None and by.startswith(f"process {self.run.pid} ")  # type: ignore[union-attr]

    def below(self, name: str) -> list[psutil.Process]:
        """Processes below the run that are called so, or were started with that word."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.run.pid).children(recursive=True) if self.alive else []:  # type: ignore[union-attr]
                with contextlib.suppress(psutil.NoSuchProcess):
                    line = child.cmdline()
                    if child.name() == name or name in line or " ".join(line).startswith(name):
                        found.append(child)
        return found

    def end(self, number: signal.Signals, times: int = 1) -> str:
        """Send a signal to the run, and wait until it is gone. Raise OverdueError if it does not go."""
        assert self.run is not None
        self.killed = True
        for _ in range(times):
            self.run.send_signal(number)
            time.sleep(0.05)
        try:
            status = self.run.wait(EXIT_S)
        except subprocess.TimeoutExpired as error:
            raise OverdueError(f"the run lives {EXIT_S:.0f} s after {number.name}") from error
        return f"process {self.run.pid}, exit status {status}"


Strike = Callable[[Target], str | None]  # says what was done; None where there is nothing to do it to
STRIKES: dict[str, Strike] = {}


def strike(name: str) -> Callable[[Strike], Strike]:
    """Give a strike its name in the tables."""

    def add(function: Strike) -> Strike:
        STRIKES[name] = function
        return function

    return add


@strike("SIGKILL of the run")
def kill_run(target: Target) -> str | None:
    """At any moment, the first second included."""
    return target.end(signal.SIGKILL) if target.alive else None


@strike("SIGTERM of the run")
def terminate_run(target: Target) -> str | None:
    """Once it listens."""
    return target.end(signal.SIGTERM) if target.works() else None


@strike("SIGINT of the run")
def interrupt_run(target: Target) -> str | None:
    """As Ctrl-C once."""
    return target.end(signal.SIGINT) if target.works() else None


@strike("SIGINT of the run, twice")
def interrupt_run_twice(target: Target) -> str | None:
    """As Ctrl-C by somebody impatient."""
    return target.end(signal.SIGINT, times=2) if target.works() else None


def kill_one(target: Target, name: str) -> str | None:
    """SIGKILL of one of the processes that are called so."""
    found = target.below(name)
    if not found:
        return None
    victim = target.random.choice(found)
    victim.kill()
    return f"process {victim.pid}"


@strike("SIGKILL of the process that talks to Ray")
def kill_driver(target: Target) -> str | None:
    """Ray's driver, which the run has started."""
    return kill_one(target, DRIVER)


@strike("SIGKILL of the raylet")
def kill_raylet(target: Target) -> str | None:
    """What starts and watches the workers of a node."""
    return kill_one(target, "raylet")


@strike("SIGKILL of gcs_server")
def kill_gcs(target: Target) -> str | None:
    """The head of Ray's cluster."""
    return kill_one(target, "gcs_server")


@strike("SIGKILL of a worker in mid-epoch")
def kill_worker(target: Target) -> str | None:
    """While some training has been through an epoch, so that there is a checkpoint to go on from."""
    return kill_one(target, WORKER) if list(target.folder.glob("work/*/checkpoint.safetensors")) else None


@strike("a damaged checkpoint, and SIGKILL of all workers")
def damage_checkpoint(target: Target) -> str | None:
    """All of them, because the one that trains would write its checkpoint anew."""
    workers = target.below(WORKER)
    if not workers or not list(target.folder.glob("work/*/checkpoint.safetensors")):
        return None
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    psutil.wait_procs(workers, timeout=10)
    return damage(target, list(target.folder.glob("work/*/checkpoint.safetensors"))) or "it was gone by then"


def damage(target: Target, paths: list[Path]) -> str | None:
    """Flip one bit of one of the files, or cut it off, in place: whoever has it open or mapped sees it."""
    sizes = {}
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    whole = [path for path, size in sizes.items() if size]
    if not whole:
        return None
    path = target.random.choice(whole)
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        target.damaged.append(path.name)
        if target.random.random() < 0.5:
            size = target.random.randrange(sizes[path])
            file.truncate(size)
            return f"{path.name} cut off after {size} of {sizes[path]} bytes"
        bit = target.random.randrange(8 * sizes[path])
        file.seek(bit // 8)
        byte = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte[0] ^ 1 << bit % 8]) if byte else b"")
        return f"{path.name}: bit {bit} flipped"
    return None


@strike("a damaged record")
def damage_record(target: Target) -> str | None:
    """Of any phase."""
    return damage(target, list(target.folder.glob("records/*.json")))


@strike("a damaged weights file")
def damage_weights(target: Target) -> str | None:
    """Of a network that others are trained with: a teacher, or what a student starts from."""
    return damage(target, [path for path in target.folder.glob("weights/*.safetensors") if _is_needed(target, path)])


def _is_needed(target: Target, path: Path) -> bool:
    try:
        return Store(target.folder).read(path.stem).spec.phase in ("teacher", "source")
    except RecordError:
        return False


@strike("a damaged view cache or shared teacher")
def damage_cache(target: Target) -> str | None:
    """What is below KDBENCH_CACHE."""
    kinds = (".views", ".safetensors", ".json")
    return damage(target, [path for path in target.cache.glob("**/*") if path.suffix in kinds])


@strike("MLflow's database removed")
def remove_database(target: Target) -> str | None:
    """With what SQLite keeps beside it."""
    paths = list(target.folder.glob("mlflow.db*"))
    for path in paths:
        path.unlink(missing_ok=True)
    return ", ".join(sorted(path.name for path in paths)) or None


@strike("MLflow's database locked")
def lock_database(target: Target) -> str | None:
    """For some seconds."""
    path = target.folder / "mlflow.db"
    if not path.exists():
        return None
    seconds = target.random.uniform(*HOLD_S)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
    except sqlite3.DatabaseError:  # the run writes, or was killed in the middle of making it
        return None
    return f"for {seconds:.1f} s"


@strike("a full disk")
def fill_disk(target: Target) -> str | None:
    """No room at all, for some seconds."""
    if target.disk is None or not target.folder.exists():
        return None
    seconds = target.random.uniform(*HOLD_S)
    with full(target.disk):
        time.sleep(seconds)
    return f"for {seconds:.1f} s"


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """A file takes all the room."""
    ballast = disk / "ballast"
    try:
        with ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
        yield
    finally:
        ballast.unlink()


@strike("a second run at once")
def run_twice(target: Target) -> str | None:
    """It has to say who holds the study, and end. Raise OverdueError if it does neither in time."""
    if not target.works():
        return None
    assert target.run is not None
    second = target.spawn(subprocess.PIPE)
    try:
        said, _ = second.communicate(timeout=REFUSAL_S)
    except subprocess.TimeoutExpired as error:
        os.killpg(second.pid, signal.SIGKILL)
        second.communicate()
        if not target.alive:
            return None  # the first one had ended, and the second was right to begin
        raise OverdueError(f"a second run has said nothing for {REFUSAL_S:.0f} s") from error
    if second.returncode == 0 or f"is being run by process {target.run.pid} on " not in said.decode():
        if not target.alive:
            return None
        raise OverdueError(f"a second run ended with status {second.returncode} and said {said.decode()[-300:]!r}")
    return f"refused with status {second.returncode}"
