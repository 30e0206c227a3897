"""Student trials per hour of whole sweeps, kdbench beside three rivals: `python benchmarks/sweep.py [PAIR ...]`.

One measurement is a sweep of n trials of one teacher-student pair on real CIFAR-10, from the start of the process to
all results on disk. kdbench's side is the command `kdbench run STUDY --until search` with its Ray executor: the start
of Python and Ray, filling the view cache from empty, validation and a checkpoint after every epoch, proposals, records
and the report are inside. A rival's side is one process for each trial, as many at a time as kdbench has workers: the
start of Python, reading the images, validation after every epoch and its checkpoint are inside. The teacher is trained
by kdbench before (one epoch), outside of the timing of all sides, and all get the same file. Rivals
(benchmarks/rivals): (a) `field`: PIL, DataLoader workers, fp32, NCHW, live teacher; (b) `cheap`: the same with
channels_last, and autocast where the CPU has units for bf16; (c) `torchdistill`: the package, its own loop.

How much the view cache gains depends on how often a view comes back, and so on trials and epochs: all trials of one
search repeat draw the same views, so that n trials share one filling; independent seeds share less. `--settings` says
how many images and epochs: 1x2 is the pair's number of images for 2 epochs, 4x2 four times as many: longer trainings,
of which what is paid once for a sweep is a smaller part.

Measurements are kept in `--work` as they are made, and a second call goes on where the first stopped. Rivals' trials
share nothing, so their rate at more than `--rivals-up-to` trials is that measured there, and marked with `~`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measuring import Machine, add_write, cores, publish
from rivals.environment import environment, torchdistill_python
from rivals.trial import Trial
from sweep_page import sweep_page
from sweep_plan import (
    BATCH,
    COLUMNS,
    GAMMA,
    LOADERS,
    LR,
    MOMENTUM,
    PAIRS,
    RIVALS,
    SEARCH_BATCH,
    VALIDATION,
    WEIGHT_DECAY,
    Cell,
    milestones,
    plan,
)  # fmt: skip

from kdbench.errors import KdbenchError

STUDY = """
study: sweep
data: {{name: cifar10, validation: {validation}, train: {images}}}
teacher: {{model: {teacher[name]}, depth: {teacher[depth]}, width: {teacher[width]}, epochs: 1, schedule: cosine,
          milestones: []}}
student: {{model: {student[name]}, depth: {student[depth]}, width: {student[width]}}}
methods: {{{methods}}}
search: {{trials: {trials}, repeats: 1, batch: {batch}, objectives: [val_top1_pct, params], seed: {seed}}}
final: {{seeds: 1}}
train: {{epochs: {epochs}, batch_size: {size}, optimizer: sgd, lr: {lr}, momentum: {momentum},
        weight_decay: {decay}, schedule: step, milestones: {milestones}, gamma: {gamma}}}
pareto: {{reference: {{top1_pct: 10, params: 1.0e8}}}}
resources: {{cpus_per_trial: 1}}
track: {{mlflow: "{mlflow}"}}
"""


class Bench:
    """A working folder: teachers, images for the rivals, and the measurements so far, one JSON object a line."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers = folder, workers
        self.log = folder / "measurements.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def measured(self) -> list[dict[str, Any]]:
        """All measurements so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def measure(self, cell: Cell, machine: Machine) -> dict[str, Any]:
        """Measure one cell, and keep it."""
        prepared = self.prepare(cell)
        used = machine.look()
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            if cell.side.startswith("kdbench"):
                wall_s, trial_s = self.kdbench(cell, prepared, Path(place))
            else:
                wall_s, trial_s = self.rival(cell, prepared, Path(place))
        result = {**asdict(cell), "wall_s": wall_s, "trial_s": trial_s, "others_used": used}
        with self.log.open("a") as file:
            file.write(json.dumps(result) + "\n")
        return result

    def study(self, cell: Cell, place: Path, trials: int, mlflow: str = "off") -> Path:
        """Write the study file of a cell; trials: of each of its methods."""
        pair = PAIRS[cell.pair]
        text = STUDY.format(
            validation=VALIDATION, images=cell.images, teacher=pair.teacher, student=pair.student,
            methods=", ".join(f"{name}: " for name in COLUMNS[cell.column]), trials=trials, batch=SEARCH_BATCH,
            seed=cell.round, epochs=cell.epochs, size=BATCH, lr=LR, momentum=MOMENTUM, decay=WEIGHT_DECAY,
            milestones=list(milestones(cell.epochs)), gamma=GAMMA, mlflow=mlflow,
        )  # fmt: skip
        path = place / "sweep.yaml"
        path.write_text(text)
        return path

    def prepare(self, cell: Cell) -> Path:
        """The folder with the teacher (record and weights) and the rivals' images of a setting, made if missing."""
        folder = self.folder / f"{cell.pair}-{cell.images}x{cell.epochs}"
        if (folder / "images.npz").exists():
            return folder
        folder.mkdir(exist_ok=True)
        study = self.study(cell, folder, 1)
        self.kdbench_run(study, folder / "results", folder / "cache", "teachers")
        write_images(cell.images, folder / "images.npz")
        return folder

    def kdbench_run(self, study: Path, results: Path, cache: Path, until: str) -> float:
        """Seconds of `kdbench run`. Raise KdbenchError with its output if it fails."""
        command = [sys.executable, "-m", "kdbench.cli", "run", str(study), "--results", str(results), "--until", until]
        began = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, env={**environment(), "KDBENCH_CACHE": str(cache)}
        )
        if done.returncode:
            raise KdbenchError(f"kdbench run ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        return time.perf_counter() - began

    def kdbench(self, cell: Cell, prepared: Path, place: Path) -> tuple[float, list[float]]:
        """Wall time of a sweep by kdbench, and the seconds of each trial as its record has them."""
        each = cell.trials // len(COLUMNS[cell.column])
        study = self.study(cell, place, each, "auto" if cell.side == "kdbench-mlflow" else "off")
        given, own = prepared / "results" / "sweep", place / "results" / "sweep"
        for name in ("records", "weights"):
            shutil.copytree(given / name, own / name)
        wall_s = self.kdbench_run(study, place / "results", place / "cache", "search")
        records = [json.loads(path.read_text()) for path in (own / "records").glob("*.json")]
        trials = [record for record in records if record["spec"]["phase"] == "search"]
        if len(trials) != cell.trials or any(record["status"] != "finished" for record in trials):
            raise KdbenchError(f"{len(trials)} of {cell.trials} trials: {[record['error'] for record in trials]}")
        return wall_s, [record["wall_s"] for record in trials]

    def rival(self, cell: Cell, prepared: Path, place: Path) -> tuple[float, list[float]]:
        """Wall time of a sweep by a rival, and the seconds of each of its processes."""
        pair, methods = PAIRS[cell.pair], COLUMNS[cell.column]
        (weights,) = (prepared / "results" / "sweep" / "weights").glob("*.safetensors")
        command = self.rival_command(cell.side)
        files = []
        for number in range(cell.trials):
            files.append(place / f"{number}.json")
            Trial(
                pair.teacher, pair.student, str(weights), str(prepared / "images.npz"), methods[number % len(methods)],
                cell.epochs, BATCH, LR, MOMENTUM, WEIGHT_DECAY, milestones(cell.epochs), GAMMA, number, LOADERS,
                str(place / f"{number}.pt"),
            ).write(files[-1])  # fmt: skip

        def run(file: Path) -> float:
            began = time.perf_counter()
            done = subprocess.run([*command, str(file)], capture_output=True, text=True, env=environment())
            if done.returncode or not file.with_suffix(".pt").exists():
                raise KdbenchError(f"{cell.side} failed with status {done.returncode}: {done.stderr[-2000:]}")
            return time.perf_counter() - began

        began = time.perf_counter()
        with ThreadPoolExecutor(self.workers) as pool:
            seconds = list(pool.map(run, files))
        return time.perf_counter() - began, seconds

    def rival_command(self, side: str) -> list[str]:
        """How a rival is started, without its trial."""
        here = Path(__file__).resolve().parent / "rivals"
        if side == "torchdistill":
            return [str(torchdistill_python(self.folder / "torchdistill")), str(here / "library.py")]
        return [sys.executable, str(here / "field.py"), *(["--cheap"] if side == "cheap" else [])]


def write_images(images: int, path: Path) -> None:
    """The images that kdbench trains and validates on, as a file for the rivals."""
    import numpy as np

    from kdbench import data

    splits = data.load({"name": "cifar10", "validation": VALIDATION, "train": images})
    parts = {f"{name}_{what}": getattr(getattr(splits, name), what).numpy()
             for name in ("train", "validation") for what in ("images", "labels")}  # fmt: skip
    partial = path.with_name("partial.npz")
    np.savez(partial, **parts, mean=np.array(splits.mean), std=np.array(splits.std))
    partial.replace(path)


def setting(text: str) -> tuple[float, int]:
    """`0.5x8`: factor of the pair's images, and epochs. Raise KdbenchError for another form."""
    factor, _, epochs = text.partition("x")
    try:
        found = float(factor), int(epochs)
    except ValueError:
        found = 0.0, 0
    if found[0] <= 0 or found[1] < 2:
        raise KdbenchError(
            f"--settings: got '{text}'. Allowed: factor of images x epochs from 2, such as 1x2 or 0.5x8."
        )
    return found


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", help=f"of {', '.join(PAIRS)}; all where none is named")
    parser.add_argument("--trials", nargs="+", type=int, default=[1, 4, 16], help="numbers of trials")
    parser.add_argument("--settings", nargs="+", type=setting, default=[(1.0, 2), (4.0, 2)], metavar="FxE")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--rivals-up-to", type=int, default=4, metavar="N", help="measure rivals at no more trials")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no measurement after so many")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "kdbench-sweep")
    parser.add_argument("--fresh", action="store_true", help="measure all again")
    add_write(parser, "sweep")
    options = parser.parse_args(arguments)
    if odd := set(options.pairs) - set(PAIRS):
        raise KdbenchError(f"no pair {', '.join(sorted(odd))}. Allowed: {', '.join(PAIRS)}.")
    return options


def main() -> None:
    """Measure what is missing, and print the page."""
    options = parsed()
    began, bench, machine, notes = time.monotonic(), Bench(options.work, cores()), Machine(), []
    if options.fresh:
        bench.log.unlink(missing_ok=True)
    rivals = list(options.rivals)
    if "torchdistill" in rivals:
        try:
            torchdistill_python(bench.folder / "torchdistill")
        except KdbenchError as error:
            rivals.remove("torchdistill")
            notes.append(f"torchdistill was not measured: {error}")
    known = [{k: m[k] for k in Cell.__annotations__} for m in bench.measured()]
    cells = plan(options.pairs or list(PAIRS), options.settings, options.trials, rivals, options.rivals_up_to,
                 options.rounds, options.columns)  # fmt: skip
    todo = [cell for cell in cells if asdict(cell) not in known]
    for number, cell in enumerate(todo):
        if time.monotonic() - began > 60 * options.minutes:
            notes.append(f"{len(todo) - number} of {len(cells)} measurements are left: call again to go on")
            break
        result = bench.measure(cell, machine)
        what = f"{cell.pair} {cell.column} {cell.epochs} epochs n={cell.trials} {cell.side}"
        took = f"{result['wall_s']:.1f} s, others used {result['others_used']:.2f} cores"
        print(f"[{number + 1}/{len(todo)}] {what}: {took}", file=sys.stderr, flush=True)
    machine.look()
    text = sweep_page(bench.measured(), machine, options.trials, options.rivals_up_to, bench.workers, notes)
    publish(text, options.write)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
