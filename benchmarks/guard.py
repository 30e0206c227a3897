"""What the guard of kdbench/train/guard.py costs: epochs of one training with it and without it, in turns.

    python benchmarks/guard.py [--train 50000] [--rounds 9]

Prints one JSON object: seconds of each epoch, and the ratio of the medians of `with` and `without`; beside them the
seconds that the guard's own calls take in an epoch, measured directly, because that is less than epochs differ by.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any
from unittest import mock

import torch

from kdbench.combine import method_from
from kdbench.data.views import Views
from kdbench.models import model_from
from kdbench.train.guard import Guard
from kdbench.train.loop import Training
from kdbench.train.recipe import Recipe
from kdbench.train.task import Task
from kdbench.train.teachers import LiveTeacher


def training(train: int, epochs: int) -> Training:
    """Resnet8 taught by a live resnet56, by vanilla distillation, on noise of the shape of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)

    def views(n: int, crop: int) -> tuple[Views, torch.Tensor]:
        images = torch.randint(256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, (n,), generator=generator)
        return Views(images, crop, crop > 0, (0.5,) * 3, (0.25,) * 3), labels

    def network(depth: int) -> Any:
        return model_from({"name": "resnet", "depth": depth}).network((3, 32, 32), 10)

    teacher = network(56).eval().requires_grad_(False)
    live = LiveTeacher(teacher, torch.device("cpu"), "fp32")
    task = Task(*views(train, 4), *views(500, 0), frozen={"teacher": teacher}, teacher=live)
    recipe = Recipe(epochs=epochs, batch_size=128, lr=0.05)
    return Training(method_from({"name": "kd"}), network(8), task, recipe, 0, "fp32")


def epoch_s(run: Training, guarded: bool) -> float:
    """Seconds of the next epoch."""
    guard: Any = run.method
    began = time.perf_counter()
    if guarded:
        run.epoch()
    else:
        run.method = guard._method
        Training.epoch.__wrapped__(run)  # type: ignore[attr-defined]
        run.method = guard
    return time.perf_counter() - began


def own_s(run: Training, steps: int, rounds: int) -> float:
    """Seconds that the guard itself takes in an epoch of so many steps: its calls around a method that does nothing."""
    guard: Any = run.method
    terms = {"ce": torch.zeros((), requires_grad=True)}
    step = mock.Mock(labels=run.task.train_labels, index=run.task.train_labels, nets={})
    idle = mock.Mock(loss=lambda s: terms, update=lambda s: {}, sample=lambda index, setup, generator: {})
    with mock.patch.object(guard, "_method", idle):
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            with guard.watch("loss"):
                for _ in range(steps):
                    Guard.sample(guard, step.index, run.setup, torch.Generator())
                    Guard.loss(guard, step)
                    Guard.update(guard, step)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    run = training(options.train, 2 * options.rounds + 1)
    run.epoch()  # the first one is slower
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(options.rounds):
        for guarded in (True, False) if number % 2 else (False, True):
            seconds[guarded].append(epoch_s(run, guarded))
    with_s, without_s = (statistics.median(seconds[guarded]) for guarded in (True, False))
    guard_s = own_s(run, len(run.batches(options.train)), options.rounds)
    out = {"with_s": seconds[True], "without_s": seconds[False], "ratio": with_s / without_s}
    print(json.dumps({**out, "guard_s": guard_s, "guard_share": guard_s / without_s, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
