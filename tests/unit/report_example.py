"""Made-up study folders for the tests of the report: plausible numbers, drawn from a fixed seed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.record import TrialRecord, TrialSpec, canonical_json

PAIR = "resnet56 -> resnet"
GAIN = {"scratch": 0.0, "label_smoothing": 0.15, "kd": 0.9, "logit_mse": 0.7, "fitnet": 0.5, "attention_transfer": 0.8}
HYPER = {
    "label_smoothing": {"smoothing": 0.1}, "kd": {"temperature": 4.0, "lambda": 0.9, "ce_weight": 0.1},
    "logit_mse": {"weight": 0.5}, "fitnet": {"beta": 100.0, "layer": "stage2"}, "attention_transfer": {"beta": 1000.0},
}  # fmt: skip
NO_TEACHER = ("scratch", "label_smoothing")
ENVIRONMENT = {
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
    "versions": {"python": "3.11.7", "torch": "2.15.0", "numpy": "2.4.6", "kdbench": "0.1.0"},
    "hardware": {"cpu": "AMD EPYC 7B13 64-Core Processor", "cores": 2, "memory_gib": 7.8, "gpu": None},
    "data_hash": "sha256:5f3a9c0d1e2b4a67", "teacher_hash": None, "precision": "fp32", "device": "cpu", "threads": 1,
}  # fmt: skip
LATENCY = {  # as kdbench.train.measure writes it
    "device": "AMD EPYC 7B13 64-Core Processor", "device_type": "cpu", "driver": "", "dtype": "float32", "threads": 1,
    "memory_format": "channels_last", "backend": "eager, AVX2, oneDNN", "torch": "2.15.0+cu130", "warmup": 10,
    "repeats": {"b1": 100, "b256": 100},
}  # fmt: skip
STUDY: dict[str, Any] = {
    "study": "cifar10", "question": "Which distillation method gives the best small ResNet on CIFAR-10?",
    "data": {"name": "cifar10", "validation": 5000, "train": 45000},
    "teacher": {"model": "resnet", "depth": 56, "epochs": 200}, "source": None,
    "student": {"model": "resnet", "depth": [8, 14, 20], "width": [0.5, 1.0]},
    "methods": {name: {} for name in GAIN},
    "search": {"trials": 3, "repeats": 3, "sampler": "tpe", "objectives": ["val_top1_pct", "params"], "seed": 0,
               "shared": {"lr": {"low": 0.02, "high": 0.4, "log": True}}},
    "final": {"select": "best_per_size", "seeds": 5},
    "train": {"epochs": 100, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4},
    "pareto": {"reference": {"top1_pct": 80, "params": 1e6}}, "resources": {}, "track": {},
    "provenance": "98 of 60,000 images are JPEG-75 copies",
}  # fmt: skip
SIZES = [(depth, width) for depth in (8, 14, 20) for width in (0.5, 1.0)]


def record(
    phase: str, method: dict[str, Any], model: dict[str, Any], slot: dict[str, Any], result: dict[str, Any], *,
    status: str = "finished", seed: int = 0, lr: float = 0.1, epochs: int = 100, teacher: str | None = None,
    environment: dict[str, Any] | None = None, wall_s: float = 300.0, data: dict[str, Any] | None = None,
    init: str | None = None,
) -> TrialRecord:  # fmt: skip
    """One record with the environment of the example."""
    train = {**STUDY["train"], "epochs": epochs, "lr": lr}
    data = data or {"name": "cifar10", "validation": 5000, "split_seed": 0, "crop": 4, "flip": True}
    spec = TrialSpec(phase, data, model, method, train, seed, teacher, init, slot)  # type: ignore[arg-type]
    around = {
        **copy.deepcopy(ENVIRONMENT),
        **({"teacher_hash": "sha256:77aa0c"} if teacher else {}),
        **(environment or {}),
    }
    error = None if status == "finished" else f"it {status}"
    start, end = "2026-11-22T08:00:00+00:00", "2026-11-22T08:05:00+00:00"
    return TrialRecord(spec, status, result, {}, around, 1, start, end, wall_s, error)  # type: ignore[arg-type]


def resnet(depth: int, width: float = 1.0) -> dict[str, Any]:
    return {"name": "resnet", "depth": depth, "width": width}


def cost(depth: int, width: float) -> dict[str, float]:
    params = round(13_700 * (depth - 2.3) * width**2 + 650)
    return {"params": params, "size_bytes": params * 4 + 9000, "flops": round(4.1e6 * (depth - 2) * width**2)}


def measured(top1: float, rng: np.random.Generator, depth: int, width: float, teacher: bool = True) -> dict[str, float]:
    """Results of a retrained configuration around an accuracy."""
    out = {
        "test_top1_pct": round(top1, 2), "test_top5_pct": round(99.9 - (100 - top1) / 25, 2),
        "test_nll": round(0.036 * (100 - top1) + rng.normal(0, 0.004), 4),
        "test_macro_precision_pct": round(top1 + 0.05, 2), "test_macro_recall_pct": round(top1, 2),
        "test_ece_pct": round(abs(3.5 + rng.normal(0, 0.4)), 3),
        "best_epoch": 97, "val_best_epoch_top1_pct": round(top1 + abs(rng.normal(0, 0.08)), 2),
        "val_top1_pct": round(top1 + 0.4, 2), "train_wall_s": 280.0 + 3 * depth, **cost(depth, width),
    }  # fmt: skip
    if teacher:
        out["test_agreement_pct"] = round(top1 - 1.2, 2)
    return out


def final(
    method: str, seed: int, top1: float | None, *, depth: int = 20, width: float = 1.0, **more: Any
) -> TrialRecord:
    """A final training with one accuracy; None makes it fail with the status given."""
    rng = np.random.default_rng(seed)
    result = {} if top1 is None else measured(top1, rng, depth, width, method not in NO_TEACHER)
    hyper = {"name": method, **HYPER.get(method, {})}
    slot = {"pair": PAIR, "final": seed, "chosen": more.pop("chosen", None)}
    return record("final", hyper, resnet(depth, width), slot, result, seed=seed, **more)


def trial(
    method: str, repeat: int, number: int, top1: float | None, *, depth: int = 20, width: float = 1.0, **more: Any
) -> TrialRecord:
    """A search trial with one validation accuracy; None makes it fail with the status given."""
    result = {} if top1 is None else {"val_top1_pct": top1, "val_nll": 0.4, **cost(depth, width)}
    hyper = {"name": method, **HYPER.get(method, {}), **more.pop("hyper", {})}
    slot = {"pair": PAIR, "repeat": repeat, "trial": number}
    return record("search", hyper, resnet(depth, width), slot, result, seed=repeat, **more)


def latency(depth: int, width: float, b1: float, **more: Any) -> TrialRecord:
    result = {
        f"latency_b{size}_p{p}_ms": round(b1 * scale * f, 4)
        for size, scale in ((1, 1.0), (256, 80.0)) for p, f in ((5, 0.97), (50, 1.0), (95, 1.1))
    }  # fmt: skip
    conditions = {**LATENCY, **more.pop("conditions", {})}
    environment = {"latency": conditions}
    slot = {"pair": PAIR}
    return record("latency", {"name": "scratch"}, resnet(depth, width), slot, result, environment=environment, **more)


def full_records(seed: int = 0) -> list[TrialRecord]:
    """A whole study: six methods, six sizes, three repeats of three trials, five seeds, a few failures."""
    rng = np.random.default_rng(seed)
    teacher = record("teacher", {"name": "scratch"}, resnet(56), {}, measured(93.62, rng, 56, 1.0, False), epochs=200)
    out = [teacher, latency(56, 1.0, 5.1)]
    for depth, width in SIZES:
        out.append(latency(depth, width, 0.32 + 0.085 * depth * (0.55 + 0.45 * width)))
    base = {size: 94.6 - 7.2 * (cost(*size)["params"] / 2e4) ** -0.62 for size in SIZES}
    for method, gain in GAIN.items():
        key = None if method in NO_TEACHER else teacher.key
        trials = []
        for repeat in range(3):
            for number in range(3):
                depth, width = SIZES[(3 * repeat + 2 * number) % 6]
                lr, val = (
                    float(np.exp(rng.uniform(np.log(0.02), np.log(0.4)))),
                    base[depth, width] + gain + rng.normal(0, 0.4),
                )
                lost = (method, repeat, number) == ("fitnet", 1, 2)
                done: dict[str, Any] = {"status": "diverged"} if lost else {}
                top1 = None if lost else round(val, 2)
                trials.append(trial(method, repeat, number, top1, depth=depth, width=width, lr=lr, teacher=key, **done))
        out += trials
        for depth, width in SIZES:
            of_size = [t for t in trials if t.spec.model == resnet(depth, width) and t.status == "finished"]
            if not of_size:
                continue
            chosen = max(of_size, key=lambda t: t.result["val_top1_pct"])
            effect = gain * (1.25 - depth / 40) + rng.normal(0, 0.12)
            for i in range(5):
                top1 = base[depth, width] + effect + (i - 2) * 0.08 + rng.normal(0, 0.15)
                lost = (method, depth, width, i) == ("attention_transfer", 20, 1.0, 3)
                done = {"status": "failed"} if lost else {}
                lr = chosen.spec.train["lr"]
                out.append(
                    final(
                        method,
                        1000 + i,
                        None if lost else top1,
                        depth=depth,
                        width=width,
                        lr=lr,
                        teacher=key,
                        chosen=chosen.key,
                        **done,
                    )
                )
    return out


def write_study(
    folder: Path, records: Iterable[TrialRecord], change: Callable[[dict[str, Any]], None] | None = None
) -> Path:
    """Write a study folder; `change` edits the study before it is written."""
    study = copy.deepcopy(STUDY)
    if change:
        change(study)
    (folder / "records").mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(study))
    for item in records:
        (folder / "records" / f"{item.key}.json").write_text(canonical_json(item.to_json()))
    return folder
