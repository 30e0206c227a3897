"""What kdbench itself costs beside training: `python benchmarks/orchestration.py [--records 10000] [--parts ...]`.

`trials`: `kdbench run` with its Ray executor on trials that sleep for 1, 10 and 60 seconds in place of training (a
plug-in method), at two numbers of trials. What a trial more costs is the difference of the two wall times, times the
workers, divided by the difference of the trials; the overhead is that less the sleep, and so without what is paid once
for a run (start of Python and Ray, report). Of it, `inside` is in the worker (networks, one step, validation,
checkpoint, record) and the rest is hand-over. At most 1 % of a 60 s trial is wanted.

`records`: a folder with so many valid records that nobody trained (benchmarks/synthetic.py), and the wall time of
`kdbench status` (wanted: below 1 s), `kdbench report` (30 s), reading all records as a resumed run does until it has
its next job (5 s), and `kdbench --help` (0.3 s), each in a process of its own. The first call after records came in
reads them all; the ones after that are told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import synthetic
from measuring import Machine, Spread, add_write, conditions, cores, page, publish, table, timed

from kdbench.errors import KdbenchError

SLEEPER = '''"""A method that sleeps for a while in its only step."""

import time
from dataclasses import dataclass

from kdbench import losses
from kdbench.method import Method, hp, register


@register("sleeper")
@dataclass(frozen=True)
class Sleeper(Method):
    """Sleep, then return the cross entropy.

        loss = CE(z_s, y)

    Source: none. Differs: nothing. Defaults: 1 s.
    """

    seconds: float = hp(1.0, minimum=0, help="how long a training sleeps")

    frozen = ()
    reads = ()

    def loss(self, s):
        """Cross entropy with the labels, late."""
        time.sleep(self.seconds)
        return {"ce": losses.kl.cross_entropy(s.student.logits, s.labels)}
'''
STUDY = """
study: sleepers
data: {{name: digits, validation: 100, train: 64}}
student: {{model: cnn, depth: 5, width: 0.25}}
methods: {{sleeper: {{seconds: {seconds}}}}}
search: {{trials: {trials}, repeats: 1, batch: {trials}, objectives: [val_top1_pct, params], sampler: random}}
final: {{seeds: 1}}
train: {{epochs: 1, batch_size: 64, lr: 0.01, precision: fp32}}
pareto: {{reference: {{top1_pct: 10, params: 1.0e5}}}}
resources: {{cpus_per_trial: 1}}
track: {{mlflow: "{mlflow}"}}
"""
TRIALS = {1.0: (8, 24), 10.0: (4, 12), 60.0: (2, 6)}  # by seconds of a trial: the two numbers of trials
SHARE_PCT = 1.0
RESUME = """
import sys, time
from pathlib import Path
from kdbench.search.agenda import Agenda
from kdbench.status import study_of
from kdbench.store import Store
began = time.perf_counter()
store = Store(Path(sys.argv[1]))
records, messages = store.read_all()
job = Agenda(study_of(store.folder), records, lambda key: True).next()
assert job is not None and not messages
print(time.perf_counter() - began)
"""


def kdbench(*arguments: object) -> None:
    """Run `kdbench ARGUMENTS` in a process of its own. Raise KdbenchError with what it said if it fails."""
    command = [sys.executable, "-m", "kdbench.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise KdbenchError(
            f"kdbench {arguments[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
        )


def run_sleepers(folder: Path, seconds: float, trials: int, mlflow: str) -> tuple[float, float]:
    """Wall time of a run of so many sleeping trials, and the mean time of a trial within its worker."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        plugin, study = Path(place) / "sleeper.py", Path(place) / "study.yaml"
        plugin.write_text(SLEEPER)
        study.write_text(STUDY.format(seconds=seconds, trials=trials, mlflow=mlflow))
        results = Path(place) / "results"
        arguments = ["run", study, "--plugin", plugin, "--results", results, "--until", "search"]
        wall_s = timed(lambda: kdbench(*arguments))
        records = [json.loads(path.read_text()) for path in (results / "sleepers" / "records").glob("*.json")]
    if len(records) != trials or any(record["status"] != "finished" for record in records):
        raise KdbenchError(f"{len(records)} of {trials} trials: {[record['error'] for record in records]}")
    return wall_s, statistics.mean(record["wall_s"] for record in records)


def overhead(small: tuple[int, float], large: tuple[int, float], workers: int, seconds: float) -> float:
    """Seconds that a trial more costs beyond its own: trials and wall time of two runs on so many workers."""
    (few, few_s), (many, many_s) = small, large
    return (many_s - few_s) * workers / (many - few) - seconds


def trials_part(folder: Path, machine: Machine, seconds: Sequence[float], rounds: int, mlflow: str) -> list[str]:
    """The table of overheads, and a verdict."""
    rows, share = [], None
    for each in seconds:
        found, inside = [], []
        for _ in range(rounds):
            machine.look()
            runs = [(n, *run_sleepers(folder, each, n, mlflow)) for n in TRIALS[each]]
            found.append(overhead(runs[0][:2], runs[1][:2], cores(), each))
            inside.append(runs[1][2] - each)
        total, own = Spread.of(found), Spread.of(inside)
        share = 100 * total.median / each
        rows.append([f"{each:g}", " and ".join(map(str, TRIALS[each])), total.text(3), own.text(3),
                     f"{total.median - own.median:.3f}", f"{share:.2f} %"])  # fmt: skip
    header = ["trial, s", "trials", "overhead a trial, s", "inside, s", "hand-over, s", "share"]
    parts = [f"## Trials, {cores()} workers, MLflow {mlflow}", table(header, rows)]
    if share is not None and seconds[-1] == 60:
        text = f"{'met' if share <= SHARE_PCT else 'missed'}: {share:.2f} % of a 60 s trial, wanted {SHARE_PCT:g} %"
        parts.append(f"- {machine.verdict(text)}")
    return parts


def resume_s(folder: Path) -> float:
    """Seconds until a resumed run has its next job, without the start of Python."""
    done = subprocess.run([sys.executable, "-c", RESUME, str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise KdbenchError(f"the resume scan failed: {done.stderr[-2000:]}")
    return float(done.stdout)


def records_part(folder: Path, machine: Machine, records: int, epochs: int, rounds: int) -> list[str]:
    """The table of commands on many records, and the verdicts."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _, count = synthetic.write(Path(place), records, epochs)
        study = Path(place) / "results" / "synthetic"
        size_mb = sum(path.stat().st_size for path in (study / "records").glob("*.json")) / 1e6
        measured: dict[str, tuple[float, Callable[[], float]]] = {
            "kdbench --help": (0.3, lambda: timed(lambda: kdbench("--help"))),
            "kdbench status": (1.0, lambda: timed(lambda: kdbench("status", study))),
            "resume scan": (5.0, lambda: resume_s(study)),
            "kdbench report": (30.0, lambda: timed(lambda: kdbench("report", study))),
        }
        rows, verdicts = [], []
        for name, (wanted, measure) in measured.items():
            machine.look()
            first = measure()
            spread = Spread.of(measure() for _ in range(rounds if wanted < 10 else 1))
            rows.append([name, f"{first:.2f}", spread.text(2), f"{wanted:g}"])
            text = f"{'met' if spread.median < wanted else 'missed'}: {spread.median:.2f} s, wanted {wanted:g} s"
            verdicts.append(f"- {name}: {machine.verdict(text)}")
    title = f"## {count:,} records of {epochs} epochs, {size_mb:.0f} MB"
    return [title, table(["command", "first call, s", "then, s", "wanted, s"], rows), "\n".join(verdicts)]


def main() -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("trials", "records"), default=["trials", "records"])
    parser.add_argument("--seconds", nargs="+", type=float, choices=TRIALS, default=list(TRIALS), help="of a trial")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=synthetic.EPOCHS, help="of the curves of each record")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mlflow", choices=("off", "auto"), default="auto")
    add_write(parser, "orchestration")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    machine, parts = Machine(), []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDBENCH_CACHE"] = str(Path(folder) / "cache")
        if "trials" in options.parts:
            parts += trials_part(Path(folder), machine, sorted(options.seconds), options.rounds, options.mlflow)
        if "records" in options.parts:
            parts += records_part(Path(folder), machine, options.records, options.epochs, options.rounds)
    machine.look()
    publish(page("Orchestration", "\n".join(conditions(machine)), *parts), options.write)


if __name__ == "__main__":
    main()
