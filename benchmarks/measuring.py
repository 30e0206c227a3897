"""What every benchmark shares: the conditions of a measurement, rounds in turns, medians with their range, and tables.

A ratio is worth something only where nothing else used the machine: `Machine` looks, while the benchmark itself rests,
at how much of the processors is in use all the same, and a verdict is given only if that was little at every look.
The numbers are printed whether there is a verdict or not.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.errors import KdbenchError
from kdbench.train.environment import environment

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "KDBENCH_CACHE", "CUDA_VISIBLE_DEVICES")
ISA = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")  # flags that decide speed
LIMIT = 0.1  # cores that others may use without the numbers being doubted
LOOK_S = 1.0


def cpu_flags() -> frozenset[str]:
    """The flags of this processor in ISA; empty where the system does not tell (other than Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    found = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return frozenset(found) & frozenset(ISA)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jiffies() -> tuple[float, float]:
    """Processor time since the start of the machine, in seconds: in use (by any process, or taken away by the host of a
    virtual machine), and of one core in all."""
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    tick = os.sysconf("SC_CLK_TCK")
    idle = numbers[3] + numbers[4]  # idle, and waiting for a disk
    return (sum(numbers) - idle) / tick, sum(numbers) / tick / (os.cpu_count() or 1)


@dataclass
class Machine:
    """How busy this machine is with other work; look at it only while the benchmark itself does nothing.

    looks: cores in use at each look. loads: load averages over a minute at the first and the last look, which count
    the benchmark's own work, too.
    """

    limit: float = LIMIT
    looks: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    def look(self, seconds: float = LOOK_S) -> float:
        """Cores that were in use during the next `seconds`; `nan` where the system does not tell (other than Linux)."""
        self.loads.append(os.getloadavg()[0])
        if not Path("/proc/stat").exists():
            self.looks.append(float("nan"))
            return self.looks[-1]
        used, began = jiffies()
        time.sleep(seconds)
        later, ended = jiffies()
        self.looks.append((later - used) / max(ended - began, 1e-9))
        return self.looks[-1]

    @property
    def busy(self) -> bool:
        """Whether a look found more than the limit, or could not tell."""
        return not self.looks or not all(look <= self.limit for look in self.looks)

    def verdict(self, text: str) -> str:
        """`text` where the machine was quiet, else why there is no verdict."""
        if not self.busy:
            return text
        return f"no verdict: load {self.load()}"

    def load(self) -> str:
        """What the looks found, in words."""
        if not self.looks:
            return "not looked at"
        return (
            f"{self.loads[0]:.2f} before, {self.loads[-1]:.2f} after; others used {statistics.median(self.looks):.2f} "
            f"(at most {max(self.looks):.2f}) of {cores()} cores at {len(self.looks)} looks, allowed {self.limit:g}"
        )


def conditions(machine: Machine, threads: int | None = None, command: str | None = None) -> list[str]:
    """Lines that say where and how something was measured: command, commit, processor, flags, threads, versions, load.

    threads: of each process that was measured; by default those of torch here. command: by default this process's own.
    """
    import torch

    facts = environment()
    hardware, git = facts["hardware"], facts["git"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    settings = ", ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ) or "none"
    changed = " with uncommitted changes" if git["dirty"] else ""
    return [
        f"- Command: `{command or command_line()}`",
        f"- Commit: {(git['commit'] or 'none')[:12]}{changed}; {time.strftime('%Y-%m-%d', time.gmtime())}",
        f"- Processor: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; torch uses "
        f"{hardware['cpu_capability']}; flags: {', '.join(f for f in ISA if f in cpu_flags()) or 'unknown'}; "
        f"GPU: {hardware['gpu'] or 'none'}",
        f"- Threads: {threads or torch.get_num_threads()} a process; settings: {settings}",
        f"- Versions: {versions}, {platform.system()} {platform.release()}",
        f"- Load: {machine.load()}",
    ]


def command_line() -> str:
    """How this benchmark was called, without the folders of this machine."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *(_short(a) for a in sys.argv[1:])])


def _short(argument: str) -> str:
    """The argument; of an absolute path the last part only."""
    return Path(argument).name if argument.startswith("/") else argument


@dataclass(frozen=True)
class Spread:
    """Median and range of some measurements."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value. Raise KdbenchError if there is none."""
        found = list(values)
        if not found:
            raise KdbenchError("a median of no measurements. Measure at least one round.")
        return cls(statistics.median(found), min(found), max(found), len(found))

    def text(self, digits: int = 2) -> str:
        """`median (min to max)`; the median alone where there is one measurement."""
        if self.n == 1:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Ratio of the medians of two sides, with the smallest and the largest ratio of a round.

    above, below: measurements of the same rounds in the same order. Raise KdbenchError unless they are equally many.
    """
    if len(above) != len(below) or not above:
        raise KdbenchError(f"a ratio of {len(above)} and {len(below)} rounds. Give each side the same, at least one.")
    rounds = [a / b for a, b in zip(above, below, strict=True)]
    return Spread(statistics.median(above) / statistics.median(below), min(rounds), max(rounds), len(rounds))


def interleaved(
    sides: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: int = 1, machine: Machine | None = None,
    look_s: float = LOOK_S,
) -> dict[str, list[float]]:  # fmt: skip
    """Measure sides in turns, so that whatever drifts meets them all alike: A B C, C B A, A B C, ...

    sides: by name, functions that measure once and return the number, such as `lambda: timed(step)`. warm_up: rounds
    before, which are dropped. machine: looked at before the first round, after the last, and between (`look_s` each).
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(-warm_up, rounds):
        if machine is not None and number >= 0:
            machine.look(look_s)
        for name in names if number % 2 == 0 else reversed(names):
            value = sides[name]()
            if number >= 0:
                found[name].append(value)
    if machine is not None:
        machine.look(look_s)
    return found


def timed(work: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown. Raise KdbenchError for a row of another length than the header."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in rows:
        if len(row) != len(header):
            raise KdbenchError(f"a row of {len(row)} cells under a header of {len(header)}: {list(row)}")
        lines.append(f"| {' | '.join(str(cell) for cell in row)} |")
    return "\n".join(lines)


def page(title: str, *parts: str) -> str:
    """A page in Markdown: its title, and its parts with a line between them."""
    return "\n\n".join([f"# {title}", *(part.strip() for part in parts if part.strip())]) + "\n"


def add_write(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a benchmark the option `--write [FILE]`, by default results/benchmarks/<name>.md."""
    default = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / f"{name}.md"
    parser.add_argument(
        "--write", nargs="?", type=Path, const=default, metavar="FILE",
        help=f"write the page there, too (without FILE: results/benchmarks/{name}.md)",
    )  # fmt: skip


def publish(text: str, path: Path | None) -> None:
    """Print a page, and write it where `--write` asks for that."""
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"written: {path}", file=sys.stderr)
