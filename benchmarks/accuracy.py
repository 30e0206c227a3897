"""Is the fast path as accurate as the plain one? `python benchmarks/accuracy.py [--minutes 60]`

The fast path is a training of kdbench as users get it: resident images, the view cache, the precision that `auto`
chooses. The plain path is the loop of benchmarks/rivals/field.py: PIL, a DataLoader, fp32, NCHW, the teacher run on
every batch. Both train a resnet8 beside a resnet20 by vanilla distillation on real CIFAR-10. They are paired: for each
seed the same weights to start from, the same order, the same views; rounding alone tells them apart, which grows over a
training as any perturbation does.

Two one-sided t tests of the paired differences of test accuracy (TOST, Schuirmann 1987) with a margin of 0.3 points
say whether the paths are equivalent at the 5 % level. The result is printed with n, pass or not, and with the n that
80 % power would take at the spread that was seen. Every seed is kept in `--work` as it is done, so that a second call
adds to it; the number of seeds is to be fixed before one looks (`--seeds`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import Machine, Spread, add_write, conditions, cores, page, publish, table
from rivals.agreement import Setting, field_epochs
from rivals.environment import environment
from scipy import stats

from kdbench import data
from kdbench.combine import method_from
from kdbench.data.views import Views
from kdbench.errors import KdbenchError
from kdbench.models import model_from
from kdbench.nets.base import Network
from kdbench.train import checkpoint
from kdbench.train.loop import Training, logits_of
from kdbench.train.metrics import evaluate
from kdbench.train.recipe import Recipe, resolve_precision
from kdbench.train.task import Task

MARGIN_POINTS, LEVEL, POWER = 0.3, 0.05, 0.8
TEACHER, STUDENT = {"name": "resnet", "depth": 20}, {"name": "resnet", "depth": 8}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Equivalence:
    """Result of two one-sided tests. mean, low, high: of the differences and their 90 % interval, in points."""

    n: int
    mean: float
    low: float
    high: float
    p: float
    needed: int | None  # pairs for 80 % power at the spread that was seen, where the paths do not differ at all

    @property
    def passed(self) -> bool:
        """Whether the paths are equivalent within the margin."""
        return self.p < LEVEL

    def text(self) -> str:
        """The result in a sentence."""
        verdict = "equivalent" if self.passed else "equivalence not shown"
        more = "" if self.needed is None else f"; at this spread {self.needed} pairs have {POWER:.0%} power"
        return (
            f"{verdict} within {MARGIN_POINTS} points: n = {self.n} paired seeds, mean difference {self.mean:+.3f} "
            f"points (90 % interval {self.low:+.3f} to {self.high:+.3f}), TOST p = {self.p:.3g}, level {LEVEL}{more}"
        )


def equivalence(differences: Sequence[float], margin: float = MARGIN_POINTS) -> Equivalence:
    """Test whether the mean of paired differences lies within the margin. Raise KdbenchError for less than two."""
    n = len(differences)
    if n < 2:
        raise KdbenchError(f"an equivalence test of {n} paired seeds. Allowed: at least 2; run for longer.")
    spread = float(stats.tstd(differences))
    mean = float(sum(differences) / n)
    if spread == 0.0:
        return Equivalence(n, mean, mean, mean, 0.0 if abs(mean) < margin else 1.0, None)
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    half = float(stats.t.ppf(1 - LEVEL, n - 1)) * spread / math.sqrt(n)
    return Equivalence(n, mean, mean - half, mean + half, float(max(above, below)), pairs_needed(spread, margin))


def answer(plain: Sequence[float], differences: Sequence[float], classes: int) -> str:
    """The result in words; nothing is concluded from one seed, or from students that have learnt nothing.

    plain: accuracies of the plain path in per cent.
    """
    if len(differences) < 2:
        return "no test: fewer than two paired seeds"
    chance = 100 / classes
    if max(plain) < 2 * chance:
        return f"no verdict: no student is twice as good as chance ({chance:g} %), train for longer"
    return equivalence(differences).text()


def pairs_needed(spread: float, margin: float) -> int:
    """Pairs for the wanted power where the true difference is zero: (z_0.95 + z_0.9)^2 (s / margin)^2, at least 2."""
    z = stats.norm.ppf(1 - LEVEL) + stats.norm.ppf(1 - (1 - POWER) / 2)
    return max(math.ceil(float(z) ** 2 * (spread / margin) ** 2), 2)


class Bench:
    """A working folder for one size of the question: the teacher, and a JSON file for each seed and path."""

    def __init__(self, folder: Path, images: int, epochs: int, teacher_epochs: int) -> None:
        self.folder = folder / f"{images}x{epochs}-{teacher_epochs}"
        self.images, self.epochs, self.teacher_epochs = images, epochs, teacher_epochs
        self.splits = data.load({"name": "cifar10", "train": images}, test=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def recipe(self, epochs: int) -> Recipe:
        """SGD with a step schedule, which both loops have alike."""
        milestones = tuple(sorted({max(round(epochs * share), 1) for share in (0.625, 0.75, 0.875)}))
        return Recipe(epochs=epochs, batch_size=64, lr=0.05, schedule="step", milestones=milestones)

    def views(self, images: torch.Tensor, augmented: bool) -> Views:
        """Views of images of the splits."""
        crop, flip = (self.splits.crop, self.splits.flip) if augmented else (0, False)
        return Views(images, crop, flip, self.splits.mean, self.splits.std)

    def teacher(self) -> Network:
        """The teacher, trained once."""
        path = self.folder / "teacher.safetensors"
        torch.manual_seed(0)
        net = model_from(TEACHER).network((3, 32, 32), self.splits.classes)
        if not path.exists():
            train = self.views(self.splits.train.images, True)
            task = Task(train, self.splits.train.labels, self.views(self.splits.validation.images, False),
                        self.splits.validation.labels)  # fmt: skip
            training = Training(
                method_from({"name": "scratch"}), net, task, self.recipe(self.teacher_epochs), 0, "fp32"
            )
            while not training.over:
                training.epoch()
            checkpoint.save(path, training.student.state_dict(), {})
        net.load_state_dict(checkpoint.load(path)[0])
        return net.eval().requires_grad_(False)

    def setting(self, seed: int) -> Setting:
        """What both paths are given."""
        torch.manual_seed(seed)
        student = model_from(STUDENT).network((3, 32, 32), self.splits.classes)
        train = self.splits.train
        return Setting(train.images, train.labels, self.teacher(), student, "kd", self.recipe(self.epochs), seed,
                       self.splits.mean, self.splits.std)  # fmt: skip

    def run(self, path: str, seed: int) -> dict[str, Any]:
        """Train one student on one path; its test accuracy in per cent, and seconds."""
        setting, began = self.setting(seed), time.monotonic()
        if path == "fast":
            training = setting.training(self.folder / "cache", resolve_precision("auto", CPU))
            for _ in range(self.epochs):
                training.epoch()
            student = training.student
        else:
            loop = setting.loop(cheap=False)
            for _ in field_epochs(setting, loop, self.epochs):
                pass
            student = loop.student
        test = self.splits.test
        if test is None:
            raise KdbenchError("CIFAR-10 has no test split here. Put cifar10.npz with test_images into the data root.")
        logits = logits_of(student, self.views(test.images, False), "fp32")
        return {"top1_pct": evaluate(logits, test.labels)["top1_pct"], "seconds": time.monotonic() - began}

    def file(self, path: str, seed: int) -> Path:
        """Where the result of one training is kept."""
        return self.folder / f"{path}-{seed}.json"

    def results(self, seeds: int) -> dict[int, dict[str, dict[str, Any]]]:
        """By seed and path, what is there of both paths."""
        found = {}
        for seed in range(seeds):
            files = {path: self.file(path, seed) for path in ("fast", "plain")}
            if all(file.exists() for file in files.values()):
                found[seed] = {path: json.loads(file.read_text()) for path, file in files.items()}
        return found


def run_missing(bench: Bench, options: argparse.Namespace) -> int:
    """Train what is missing, each in a process of one thread, until the time is over; how many are left."""
    ends = time.monotonic() + 60 * options.minutes
    orders = ("fast", "plain"), ("plain", "fast")
    wanted = [(path, seed) for seed in range(options.seeds) for path in orders[seed % 2]]
    missing = [one for one in wanted if not bench.file(*one).exists()]
    sizes = ["--images", options.images, "--epochs", options.epochs, "--teacher-epochs", options.teacher_epochs]

    def run(one: tuple[str, int]) -> bool:
        if time.monotonic() > ends:
            return False
        command = [sys.executable, __file__, "--one", *one, *sizes, "--work", options.work]
        subprocess.run([str(word) for word in command], check=True, env=environment())
        print(f"seed {one[1]} {one[0]}: {bench.file(*one).read_text()}", file=sys.stderr, flush=True)
        return True

    with ThreadPoolExecutor(options.workers) as pool:
        return sum(not done for done in pool.map(run, missing))


def report(bench: Bench, machine: Machine, options: argparse.Namespace, left: int) -> str:
    """The page."""
    found = bench.results(options.seeds)
    pairs = [(seed, both["fast"]["top1_pct"], both["plain"]["top1_pct"]) for seed, both in found.items()]
    rows = [[seed, f"{fast:.2f}", f"{plain:.2f}", f"{fast - plain:+.2f}"] for seed, fast, plain in pairs]
    differences = [fast - plain for _, fast, plain in pairs]
    facts = [
        *conditions(machine, threads=1),
        f"- resnet20 ({bench.teacher_epochs} epochs) to resnet8, kd, {bench.images} images of CIFAR-10, {bench.epochs} "
        f"epochs, batch 64; fast path in {resolve_precision('auto', CPU)}; {len(bench.splits.test or ())} test images",
        f"- Seeds: {len(found)} of {options.seeds} asked for"
        + (f"; {left} trainings are left: call again to go on" if left else ""),
    ]
    result = answer([plain for _, _, plain in pairs], differences, bench.splits.classes)
    seconds = {path: Spread.of(both[path]["seconds"] for both in found.values()) for path in ("fast", "plain") if found}
    shown = table(["seed", "fast, test top-1 %", "plain, test top-1 %", "difference"], rows)
    times = ", ".join(f"{path} {spread.text(0)} s" for path, spread in seconds.items())
    return page("Accuracy of the fast path", "\n".join(facts), f"**{result}**", shown, f"Time of a training: {times}")


def main() -> None:
    """Train what is missing, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10, help="paired seeds that the answer is to rest on")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after so many")
    parser.add_argument("--workers", type=int, default=cores(), help="trainings at a time, each of one thread")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "kdbench-accuracy")
    parser.add_argument("--one", nargs=2, metavar=("PATH", "SEED"), help=argparse.SUPPRESS)
    add_write(parser, "accuracy")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.work, options.images, options.epochs, options.teacher_epochs)
    if options.one:
        path, seed = options.one[0], int(options.one[1])
        result, file = bench.run(path, seed), bench.file(path, seed)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(result))
        partial.replace(file)
        return
    machine = Machine()
    machine.look()
    bench.teacher()
    left = run_missing(bench, options)
    machine.look()
    publish(report(bench, machine, options, left), options.write)


if __name__ == "__main__":
    main()
