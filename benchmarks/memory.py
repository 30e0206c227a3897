"""What trainings on CIFAR-10 take of the memory: `python benchmarks/memory.py [--workers 2] [--write]`.

`kdbench run` with its Ray executor: resnet20 to resnet8 by kd (read from the view cache) and by fitnet (a live teacher,
shared by the trials of a round), on 45,000 images for one epoch, as many trials of each as workers. While it runs, the
processes of the workers are looked at twice a second. Peaks: a worker's own memory, without pages of files; the
resident set, which has those that it has mapped (libraries, and the tables of the cache, whose pages the system takes
back when it needs them), and counts pages that processes share in each of them; and the proportional set, which divides
them. The tables of the cache are measured on the disk; with the cache switched off the same is run again, and the
difference of the peaks is what the cache adds. Wanted: a worker below 2 GB, and no more for the cache than its tables.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from measuring import Machine, add_write, conditions, cores, page, publish, table
from rivals.environment import environment

from kdbench.errors import KdbenchError

STUDY = """
study: memory
data: {{name: cifar10, validation: 5000, train: {images}}}
teacher: {{model: resnet, depth: 20, epochs: 1}}
student: {{model: resnet, depth: 8}}
methods: {{kd: , fitnet: }}
search: {{trials: {workers}, repeats: 1, batch: {workers}, objectives: [val_top1_pct, params], sampler: random}}
final: {{seeds: 1}}
train: {{epochs: 1, batch_size: 128, optimizer: sgd, lr: 0.05}}
pareto: {{reference: {{top1_pct: 10, params: 1.0e6}}}}
resources: {{cpus_per_trial: 1, cpus_per_teacher: 1}}
track: {{mlflow: "off"}}
"""
WORKER = "ray::ResourceTrainable"
LIMIT_GB, GB = 2.0, 1e9
LOOK_S = 0.5


@dataclass
class Peaks:
    """The largest memory of each worker that was seen, and of all of them at one time, in bytes."""

    own: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    resident: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    proportional: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    together: int = 0

    def look(self, root: psutil.Process) -> None:
        """Look at the workers below a process."""
        now = 0
        try:
            children = root.children(recursive=True)
        except psutil.Error:  # one of them has just ended
            return
        for child in children:
            try:
                if " ".join(child.cmdline()).startswith(WORKER):
                    facts = child.memory_full_info()
                    self.own[child.pid] = max(self.own[child.pid], facts.rss - facts.shared)
                    self.resident[child.pid] = max(self.resident[child.pid], facts.rss)
                    self.proportional[child.pid] = max(self.proportional[child.pid], facts.pss)
                    now += facts.pss
            except psutil.Error:  # it has just ended
                continue
        self.together = max(self.together, now)


def measured(folder: Path, images: int, workers: int, cache: bool) -> tuple[Peaks, int]:
    """Run the study, and return the peaks of its workers and the bytes of the tables in the cache."""
    folder.mkdir()
    study = folder / "memory.yaml"
    study.write_text(STUDY.format(images=images, workers=workers))
    where = str(folder / "cache") if cache else "off"
    command = [sys.executable, "-m", "kdbench.cli", "run", str(study), "--results", str(folder), "--until", "search"]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**environment(), "KDBENCH_CACHE": where},
    )  # fmt: skip
    peaks, over, root = Peaks(), threading.Event(), psutil.Process(run.pid)

    def watch() -> None:
        while not over.wait(LOOK_S):
            peaks.look(root)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = run.communicate()
    over.set()
    watcher.join()
    if run.returncode or not peaks.resident:
        raise KdbenchError(f"kdbench run ended with {run.returncode}: {output[-2000:]}")
    files = (folder / "cache").rglob("*") if cache else iter(())
    return peaks, sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def main() -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=45_000)
    parser.add_argument("--workers", type=int, default=cores())
    add_write(parser, "memory")
    options = parser.parse_args()
    machine = Machine()
    machine.look()
    with tempfile.TemporaryDirectory() as folder:
        with_cache, table_bytes = measured(Path(folder) / "on", options.images, options.workers, True)
        without, _ = measured(Path(folder) / "off", options.images, options.workers, False)
    machine.look()
    rows = []
    for name, peaks in (("with the view cache", with_cache), ("without", without)):
        largest = (max(found.values()) for found in (peaks.own, peaks.resident, peaks.proportional))
        rows.append([name, len(peaks.own), *(f"{size / GB:.2f}" for size in (*largest, peaks.together))])
    header = ["", "workers", "own, GB", "resident, GB", "proportional, GB", "all together (proportional), GB"]
    own, resident = (max(found.values()) / GB for found in (with_cache.own, with_cache.resident))
    more = (with_cache.together - without.together) / GB
    verdicts = [
        f"- a worker's own memory: {'met' if own < LIMIT_GB else 'missed'}: {own:.2f} GB, wanted {LIMIT_GB:g} GB",
        f"- with the files that it has mapped: {'met' if resident < LIMIT_GB else 'missed'}: {resident:.2f} GB",
        f"- the cache: its tables have {table_bytes / GB:.2f} GB on the disk; all workers together hold {more:+.2f} GB "
        "with it",
    ]
    facts = "\n".join(conditions(machine))
    publish(page("Memory of workers", facts, table(header, rows), "\n".join(verdicts)), options.write)


if __name__ == "__main__":
    main()
