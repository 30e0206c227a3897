"""A study under fire: for some minutes something is killed, damaged, filled or locked every few seconds.

    python benchmarks/soak.py --minutes 10 --seed 0

A digits study runs on Ray, with its MLflow mirror; strikes.py has what may happen to it, and the run is started again
after each death. Then it is left alone until it ends, and must be what an undisturbed run of the same study is:
tests/integration/invariants.py has the checks. A study that ends early is checked, and another one is begun.
Writes a log of what was done, and a summary as Markdown. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

import invariants
import psutil
from soak_summary import summary
from strikes import STRIKES, WORKER, OverdueError, Target

STUDY = """
study: soak
question: Does a study under fire come out like one that is left alone?
data: {name: digits, validation: 180, train: 400}
source: {data: {name: digits, rotate: 90, validation: 180, train: 400}}
teacher: {model: cnn, depth: 5, width: 0.5, epochs: 12}
student: {model: cnn, depth: 5, width: [0.125, 0.25]}
methods: {scratch: , kd: , fitnet: , finetune: }
search: {trials: 4, repeats: 1, startup: 2}
final: {select: best, seeds: 2}
train: {epochs: 12, batch_size: 50, lr: 0.05, precision: fp32}
pareto: {reference: {top1_pct: 5, params: 1.0e5}}
resources: {cpus_per_teacher: 1}
"""
MARK = "KDBENCH_SOAK"  # in the environment of everything that the soak starts
DISK = "192m"
PAUSE_S, QUIET_S = (0.5, 3.0), (3.0, 9.0)  # between strikes, and between quiet ones while a run recovers
HASTE = 0.4  # the share of strikes after which the next one does not wait until the study moves on
RECOVERY_S, END_S = 600.0, 2400.0  # for the study to move on, and to end once it is left alone
RUNS = 6  # until one has nothing to do; the damage that was done last is found by the next run
RAY_LOST = ("SIGKILL of the process that talks to Ray", "SIGKILL of the raylet", "SIGKILL of gcs_server")
WORKER_LOST = ("SIGKILL of a worker in mid-epoch", "a damaged checkpoint, and SIGKILL of all workers")
QUIET = (  # what no run has to recover from at once, so that it comes while it recovers from something else, too
    "a damaged record", "a damaged weights file", "a damaged view cache or shared teacher",
    "MLflow's database removed", "MLflow's database locked", "a second run at once",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]


class Soak:
    """The whole soak. failures: what is wrong, a line each, by check. took_s: seconds until the study moved on."""

    def __init__(self, root: Path, disk: Path | None, seed: int, log: Path, changes: list[str]) -> None:
        self.root, self.disk, self.log, self.changes = root, disk, log, changes
        self.random = random.Random(seed)
        self.began = time.monotonic()
        self.done: Counter[str] = Counter()
        self.took_s: dict[str, list[float]] = defaultdict(list)
        self.failures: dict[str, list[str]] = {name: [] for name in invariants.CHECKS}
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.loads: list[float] = [os.getloadavg()[0]]  # of the machine, at each line of the log
        self.rounds = 0
        self.target: Target
        self.decks: dict[bool, list[str]] = {True: [], False: []}  # quiet, loud: each strike comes as often
        self.beside = ThreadPoolExecutor(1)
        self.quiet: Future[None] | None = None
        log.write_text("")

    def say(self, text: str) -> None:
        """Add a line to the log."""
        self.loads.append(os.getloadavg()[0])
        line = f"[{time.monotonic() - self.began:7.1f} s] {text}"
        print(line, flush=True)
        with self.log.open("a") as out:
            out.write(line + "\n")

    def fail(self, check: str, lines: list[str]) -> None:
        """Note what is wrong."""
        self.failures[check] += [f"study {self.rounds}: {line}" for line in lines]
        for line in lines:
            self.say(f"WRONG ({check}): {line}")

    def command(self, results: Path, *more: str) -> list[str]:
        """Of a run of the study."""
        study = str(self.root / "soak.yaml")
        changes = [part for change in (*self.changes, *more) for part in ("--set", change)]
        return [sys.executable, "-m", "kdbench.cli", "run", study, "--results", str(results), "--json", *changes]

    def environment(self, cache: Path) -> dict[str, str]:
        """Of a run: its own cache and temporary folders, and the mark by which its processes are found."""
        temporary = self.root / "t"
        temporary.mkdir(exist_ok=True)
        own = {
            "KDBENCH_CACHE": str(cache),
            "TMPDIR": str(temporary),
            "RAY_TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",  # by default 15, and then whatever else the machine does comes first
            MARK: str(self.root),
        }
        return {**os.environ, **own}

    def undisturbed(self) -> Path:
        """Run the study once without Ray and without any disturbance; returns its folder."""
        (self.root / "soak.yaml").write_text(STUDY)
        results = self.root / "undisturbed"
        alone = ("resources.executor=local", "track.mlflow=off")
        subprocess.run(
            self.command(results, *alone), env=self.environment(self.root / "cache"), timeout=END_S, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return results / "soak"

    def begin(self) -> None:
        """Begin a study of its own, in empty folders."""
        self.rounds += 1
        place = (self.disk or self.root) / f"{self.rounds}"
        self.target = Target(
            self.command(place), self.environment(place / "cache"), place / "soak", place / "cache", self.disk,
            self.root / f"run{self.rounds}.log", self.random,
        )  # fmt: skip
        self.target.start()
        self.say(f"study {self.rounds} is begun")

    def storm(self, seconds: float, least: int, reference: Path) -> None:
        """Strike for so long and so often, study after study; the last one is under way when it is over."""
        limit = time.monotonic() + seconds
        self.begin()
        while time.monotonic() < limit or sum(self.done.values()) < least:
            if self.ended():
                self.conclude(reference)
                self.begin()
            try:
                self.join()
                if self.random.random() < len(QUIET) / len(STRIKES):
                    self.quiet_strike()
                else:
                    self.loud_strike()
            except OverdueError as error:
                self.fail("waits", [str(error)])
                self.stop()
            if not self.target.alive and not self.ended():
                self.target.start()
            time.sleep(self.random.uniform(*PAUSE_S))

    def deal(self, quiet: bool) -> tuple[str, str] | None:
        """Strike once; returns the name and what was done, or None where nothing can be struck now."""
        mine = [name for name in STRIKES if (name in QUIET) == quiet]
        deck = self.decks[quiet] = self.decks[quiet] or self.random.sample(mine, len(mine))
        for name in deck:
            if (what := STRIKES[name](self.target)) is not None:
                deck.remove(name)
                self.done[name] += 1
                return name, what
        return None

    def quiet_strike(self) -> None:
        """Strike once, with what nobody has to recover from."""
        if (dealt := self.deal(quiet=True)) is not None:
            self.say(": ".join(dealt))

    def join(self) -> None:
        """Wait for the quiet strike that is under way. Raise OverdueError as it does."""
        if self.quiet is not None:
            under_way, self.quiet = self.quiet, None
            under_way.result()

    def loud_strike(self) -> None:
        """Strike once, and mostly wait until the study moves on."""
        before = {worker.pid for worker in self.target.below(WORKER)}
        read_from, began = self.target.log.stat().st_size, time.monotonic()
        if (dealt := self.deal(quiet=False)) is None:  # the run has only just been started
            return
        name, what = dealt
        if self.random.random() < HASTE:
            self.say(f"{name}: {what}; the next one at once")
            return
        self.say(f"{name}: {what}")
        if name not in RAY_LOST + WORKER_LOST:
            read_from = self.target.log.stat().st_size
        if self.moves_on(name, began, read_from, before):
            self.took_s[name].append(time.monotonic() - began)
            self.say(f"the study moved on after {self.took_s[name][-1]:.1f} s")

    def moves_on(self, name: str, began: float, read_from: int, before: set[int]) -> bool:
        """Wait until an epoch or a training ends, after what was lost is back; False if the study has ended before.

        Raise OverdueError if neither comes in time.
        """
        back = name not in RAY_LOST + WORKER_LOST
        next_quiet = began + self.random.uniform(*PAUSE_S)
        while not self.ended():
            if time.monotonic() > next_quiet and (self.quiet is None or self.quiet.done()):
                self.join()
                self.quiet = self.beside.submit(self.quiet_strike)
                next_quiet = time.monotonic() + self.random.uniform(*QUIET_S)
            if not self.target.alive:
                self.target.start()
                read_from, back = self.target.log.stat().st_size, True
            text = self.text(read_from)
            if not back and name in RAY_LOST and "Ray was lost" in text:
                read_from, back = read_from + len(text[: text.index("Ray was lost")].encode()), True
            if not back and name in WORKER_LOST and any(p.pid not in before for p in self.target.below(WORKER)):
                read_from, back = self.target.log.stat().st_size, True
            if back and any(event["event"] in ("epoch", "ended") for event in self.events(read_from)):
                return True
            if time.monotonic() - began > RECOVERY_S:
                raise OverdueError(f"{RECOVERY_S:.0f} s after {name} the study has not moved on")
            time.sleep(0.1)
        return False

    def text(self, start: int = 0) -> str:
        """What the runs of this study have said, from a place on."""
        with self.target.log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")

    def events(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """What the runs of this study have told as JSON; a line that was cut off by a kill tells nothing."""
        for line in self.text(start).splitlines():
            try:
                found = json.loads(line[line.index("{") :])
            except ValueError:
                continue
            if isinstance(found, dict) and "event" in found:
                yield found

    def ended(self) -> bool:
        """Whether the run has come to its end by itself. An end that nobody asked for is wrong."""
        run = self.target.run
        if run is None or (status := run.poll()) is None:
            return False
        if not getattr(run, "counted", False):
            run.counted = True  # type: ignore[attr-defined]
            self.statuses[str(status)] += 1
            last = (self.text().strip().splitlines() or [""])[-1]
            full = status == 2 and "No space left on device" in last and self.done["a full disk"]
            if status != 0 and not self.target.killed and not full:
                self.fail("waits", [f"the run ended by itself with status {status}: {last[:300]}"])
        return status == 0

    def stop(self) -> None:
        """Kill the run and all that belongs to it."""
        self.target.killed = True
        if self.target.alive:
            self.target.run.kill()  # type: ignore[union-attr]
            self.target.run.wait()  # type: ignore[union-attr]
        for process in invariants.carrying(MARK, str(self.root)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def conclude(self, reference: Path) -> None:
        """Leave the study alone until a run has nothing to do, then check what must hold."""
        self.join()
        self.say("left alone")
        limit = time.monotonic() + END_S
        for number in range(RUNS):
            read_from = self.target.log.stat().st_size
            if number or not self.target.alive:
                self.target.start()
            while not self.ended() and time.monotonic() < limit:
                if not self.target.alive:
                    self.target.start()
                time.sleep(0.1)
            if not self.ended():
                self.fail("waits", [f"the study has not ended {END_S:.0f} s after it was left alone"])
                self.stop()
                return
            if number and "Set aside" not in self.text(read_from) and not any(self.events(read_from)):
                break
        else:
            self.fail("waits", [f"{RUNS} runs in a row had something to do"])
        self.check(reference)

    def check(self, reference: Path) -> None:
        """Check all that must hold of a study that is over, and count what it took."""
        folder, said = self.target.folder, self.text()
        events = [event for event in self.events() if event["event"] == "ended"]
        again = Counter(name.partition(".")[0] for name in self.target.damaged)
        again += Counter(event["key"] for event in events if event["status"] != "finished")
        self.fail("processes", invariants.alive(MARK, str(self.root)))
        self.fail("left", invariants.left_behind(folder, self.target.damaged))
        self.fail("results", invariants.unlike(folder, reference))
        self.fail("once", invariants.too_often(Counter(event["key"] for event in events), again))
        self.fail("optuna", invariants.unsettled(folder))
        self.fail("mlflow", invariants.unmirrored(folder))
        self.fail("waits", ["a traceback was printed"] * said.count("Traceback (most recent call last)"))
        self.count(folder, events, said)
        shutil.rmtree(folder.parent, ignore_errors=True)

    def count(self, folder: Path, events: list[dict[str, Any]], said: str) -> None:
        """Count what the study took."""
        records = invariants.read_only(folder).values()
        self.counts["trainings that were finished"] += len(records)
        self.counts["of these, started more than once"] += sum(record.attempts > 1 for record in records)
        self.counts["starts of trainings"] += sum(record.attempts for record in records)
        self.counts["given up as lost, and made in a later run"] += sum(e["status"] == "lost" for e in events)
        self.counts["damaged files that were found and set aside"] += said.count("Set aside as")
        self.counts["damaged checkpoints that were found"] += sum(
            "checkpoint_set_aside" in record.environment for record in records
        )
        self.counts["starts of the run"] += self.target.starts
        self.counts["starts of Ray within a run"] += said.count("Ray was lost (")
        self.say(f"study {self.rounds} is over and checked: {len(records)} trainings, {self.target.starts} runs")


def small_disk(folder: Path) -> Path | None:
    """A file system of its own in memory, or None where that is not allowed."""
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "kdbench-soak", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return folder


def main() -> int:
    """Run the soak; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--least", type=int, default=1, metavar="N", help="strikes, should they take longer than that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "results/reliability", help="for soak.md and soak.log")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the study, to shorten it")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left where this is ended
    options.output.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="kdsoak"))
    disk = small_disk(root / "d")
    soak = Soak(root, disk, options.seed, options.output / "soak.log", options.set)
    try:
        began = time.monotonic()
        reference = soak.undisturbed()
        reference_s = time.monotonic() - began
        soak.say(f"the undisturbed run took {reference_s:.1f} s")
        soak.storm(60 * options.minutes, options.least, reference)
        soak.conclude(reference)
        (options.output / "soak.md").write_text(summary(soak, options, reference_s, HASTE))
    finally:
        if hasattr(soak, "target"):
            soak.stop()
        if disk is not None:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
        wrong = any(soak.failures.values())
        if wrong:
            print(f"What the runs said is in {root}", file=sys.stderr)
        else:
            shutil.rmtree(root, ignore_errors=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
