"""What sharing a stream gains: search trials side by side in one process against the same trials one after another.

    KDBENCH_DATA=.data python benchmarks/stream.py [--students 1 4 8] [--teachers 20 56] [--rounds 3] [--write [FILE]]

Each trial trains a resnet8 by attention transfer beside a live CIFAR ResNet on images of CIFAR-10, from its start to
its record: batches, teacher, steps, evaluation and checkpoints are inside; reading the data and the teacher is not.
The teacher's weights are random, which makes no difference to the time. One thread, as a worker has.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Machine, Spread, add_write, conditions, interleaved, page, publish, ratios, table

from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.store import Store
from kdbench.train import checkpoint
from kdbench.train.run import run_job
from kdbench.train.stream import run_stream
from kdbench.train.workshop import Workshop

METHOD = {"name": "attention_transfer"}


def jobs_of(depth: int, students: int, data: dict[str, Any], batch_size: int) -> list[Job]:
    """Search trials that differ in their learning rate, and share all that a stream can share."""
    train = {"epochs": 1, "batch_size": batch_size, "precision": "fp32"}
    teacher = TrialSpec("teacher", data, {"name": "resnet", "depth": depth}, {"name": "scratch"}, train, 1)
    student = {"name": "resnet", "depth": 8}
    return [
        Job(TrialSpec("search", data, student, METHOD, {**train, "lr": 0.01 * (1 + n)}, 0, teacher.key), teacher)
        for n in range(students)
    ]


def shop_for(jobs: list[Job], folder: Path) -> Workshop:
    """A worker that has read the data and the teacher, as it has after its first trials."""
    shop = Workshop(Store(folder), torch.device("cpu"))
    teacher = jobs[0].teacher
    assert teacher is not None
    path = shop.store.weights_path(teacher.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, shop.network(teacher).state_dict(), {})
    list(run_job(jobs[0], shop))
    return shop


def alone(jobs: list[Job], shop: Workshop) -> None:
    """One after another."""
    for job in jobs:
        *_, record = run_job(job, shop)
        require(record)


def shared(jobs: list[Job], shop: Workshop) -> None:
    """Side by side."""
    for _, item in run_stream(jobs, shop):
        if isinstance(item, TrialRecord):
            require(item)


def require(record: Any) -> None:
    """Raise RuntimeError if a training did not finish: its time would mean nothing."""
    if record.status != "finished":
        raise RuntimeError(f"{record.spec.method_name}: {record.status}, {record.error}")


def measured(way: Any, jobs: list[Job], shop: Workshop, clock: Callable[[], float]) -> float:
    """Seconds of a clock for each student."""
    for job in jobs:
        shutil.rmtree(shop.store.work_folder(job.spec.key), ignore_errors=True)  # or it would go on from its checkpoint
    began = clock()
    way(jobs, shop)
    return (clock() - began) / len(jobs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--teachers", type=int, nargs="+", default=[20, 56], help="depths")
    parser.add_argument("--images", type=int, default=512, help="training images, a tenth of that for validation")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="count processor time: where others use the machine")
    add_write(parser, "stream")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if options.cpu_time else time.perf_counter
    data = {"name": "cifar10", "validation": max(options.images // 10, 10), "train": options.images}
    machine, rows = Machine(), []
    with tempfile.TemporaryDirectory() as folder:
        for depth in options.teachers:
            for students in options.students:
                jobs = jobs_of(depth, students, data, options.batch_size)
                shop = shop_for(jobs, Path(folder) / f"{depth}-{students}")
                sides = {way.__name__: partial(measured, way, jobs, shop, clock) for way in (alone, shared)}
                found = interleaved(sides, options.rounds, machine=machine, warm_up=0)
                each = [Spread.of(found[name]).text(2) for name in ("alone", "shared")]
                rows.append([f"resnet{depth}", students, *each, ratios(found["alone"], found["shared"]).text(2)])
    header = ["live teacher", "students", "alone, s a student", "shared, s a student", "ratio"]
    text = table(header, rows)
    lines = "\n".join(conditions(machine))
    about = (
        f"One epoch of {options.images} images in batches of {options.batch_size}; {options.rounds} rounds in turns, "
        f"medians with the smallest and the largest; {'processor' if options.cpu_time else 'wall-clock'} time."
    )
    publish(page("Students that share a stream", about, lines, text, machine.verdict("")), options.write)


if __name__ == "__main__":
    main()
