"""A study for clusters whose nodes share no folder: its data lie on the driver's node, one of its methods in a file."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

STUDY = """
study: spread
question: Does it run on machines that share nothing?
data: {name: written, validation: 100, train: 200}
source: {data: {name: written, rotate: 90, validation: 100, train: 200}}
teacher: {model: cnn, depth: 5, width: 0.5, epochs: 2}
student: {model: cnn, depth: 5, width: [0.125, 0.25]}
methods:
  finetune:
  named_in_a_file:
search: {trials: 2, repeats: 1, startup: 1}
final: {select: best, seeds: 2}
train: {epochs: 3, batch_size: 50, lr: 0.05, precision: fp32}
pareto: {reference: {top1_pct: 5, params: 1.0e5}}
resources: {executor: EXECUTOR, cpus_per_teacher: 1}
track: {mlflow: "off"}
"""
TRAININGS = 2 + 2 * 2 + 2 * 2  # teacher and source, search trials, finals
PLUGIN = '''
"""A method that no node but the driver's has."""
import time
from dataclasses import dataclass

from kdbench.losses.kl import cross_entropy, distillation
from kdbench.method import Method, hp, register


@register("named_in_a_file")
@dataclass(frozen=True)
class NamedInAFile(Method):
    """Distillation, slowly."""

    temperature: float = hp(4.0, low=1.0, high=20.0)

    def loss(self, step):
        time.sleep(SECONDS)
        kd = distillation(step.student.logits, step.teacher.logits, self.temperature)
        return {"ce": cross_entropy(step.student.logits, step.labels), "kd": kd}
'''


class Bench:
    """A folder with the study, its data and its plug-in, and what a driver's environment is. slow_s: of each step."""

    def __init__(self, folder: Path, slow_s: float = 0.0) -> None:
        self.folder = folder
        (folder / "data").mkdir()
        digits = load_digits()
        images, labels = (digits.images / 16 * 255).astype(np.uint8), digits.target.astype(np.int64)
        np.savez(
            folder / "data/written.npz",
            train_images=images[:1400], train_labels=labels[:1400],
            test_images=images[1400:], test_labels=labels[1400:],
        )  # fmt: skip
        self.plugin = folder / "named_in_a_file.py"
        self.plugin.write_text(PLUGIN.replace("SECONDS", str(slow_s)))
        self.results = folder / "results/spread"
        self.environment = {"KDBENCH_DATA": str(folder / "data"), "KDBENCH_CACHE": str(folder / "cache of the driver")}

    def start(
        self, executor: str, *arguments: str, prefix: tuple[str, ...] = (), **environment: str
    ) -> subprocess.Popen[str]:
        """Start the run in a process of its own."""
        study = self.folder / "spread.yaml"
        study.write_text(STUDY.replace("EXECUTOR", executor))
        command = [*prefix, sys.executable, "-m", "kdbench.cli", "run", str(study), "--until", "final", "--no-report"]
        command += ["--results", str(self.folder / "results"), "--plugin", str(self.plugin), *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, executor: str, *arguments: str, **environment: str) -> str:
        """Run it to its end; returns what it printed."""
        return finish(self.start(executor, *arguments, **environment))

    def records(self) -> list[dict[str, Any]]:
        """All records so far."""
        return [json.loads(path.read_text()) for path in sorted((self.results / "records").glob("*.json"))]


def finish(process: subprocess.Popen[str], seconds: float = 280) -> str:
    """Wait for the end of a run that has to end well; returns what it printed."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"still running after {seconds} s: {output}") from None
    assert process.returncode == 0, output
    return output


def wait_for_records(bench: Bench, count: int, seconds: float = 240) -> None:
    """Wait until so many trainings are over."""
    limit = time.monotonic() + seconds
    while len(bench.records()) < count:
        assert time.monotonic() < limit, f"only {len(bench.records())} records"
        time.sleep(0.05)


def wait_for_training_on(node: Path, seconds: float = 240) -> str:
    """Wait until a node, whose cache is in that folder, is in the middle of a training; returns the training's key.

    One that has been under way for a second is one of the slow ones, which take six.
    """
    limit = time.monotonic() + seconds
    while True:
        for starts in node.glob("cache/runs/*/spread/work/*/starts.txt"):
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                if time.time() - starts.stat().st_mtime > 1.0:
                    return starts.parent.name
        assert time.monotonic() < limit, "the node was given nothing that takes long"
        time.sleep(0.05)
