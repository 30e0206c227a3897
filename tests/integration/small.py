"""A study that takes seconds, and how its records are compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from kdbench.cli import app

STUDY = """
study: small
question: Does it run?
data: {name: digits, validation: 100, train: 200}
source: {data: {name: digits, rotate: 90, validation: 100, train: 200}}
teacher: {model: cnn, depth: 5, width: 0.5, epochs: 2}
student: {model: cnn, depth: 5, width: [0.125, 0.25]}
methods:
  scratch:
  kd:
  finetune:
search: {trials: 2, repeats: 1, startup: 1}
final: {select: best, seeds: 2}
train: {epochs: 2, batch_size: 50, lr: 0.05}
pareto: {reference: {top1_pct: 5, params: 1.0e5}}
resources: {executor: local, cpus_per_teacher: 1}
track: {mlflow: "off"}
"""

TIMES = ("train_wall_s", "train_device_s", "epoch_wall_s")


def write_study(folder: Path, **replace: str) -> Path:
    """Write the study, with texts of it replaced: `write_study(folder, executor="ray")`."""
    text = STUDY
    for name, value in replace.items():
        key = name.replace("__", ": ")
        before = next(part for part in text.replace("}", ",").replace("\n", ",").split(",") if f"{key}:" in part)
        text = text.replace(before, before.split(f"{key}:")[0] + f"{key}: {value}")
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def facts(folder: Path) -> dict[str, Any]:
    """What came out, by key, without times: what has to be equal however often a study was interrupted."""
    out = {}
    for path in (folder / "records").glob("*.json"):
        record = json.loads(path.read_text())
        if record["spec"]["phase"] == "latency":
            continue
        out[path.stem] = {
            "spec": record["spec"],
            "status": record["status"],
            "result": {k: v for k, v in record["result"].items() if k not in TIMES},
            "curves": {k: v for k, v in record["curves"].items() if k not in TIMES},
        }
    return out


def kdbench_cli(*arguments: object) -> Result:
    """Run `kdbench ARGUMENTS` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def start(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `kdbench ARGUMENTS` in a folder, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "kdbench.cli", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
