"""A study with thousands of records that nobody trained: valid in everything that kdbench checks, drawn from a seed.

What a study's folder costs to read does not depend on whether its numbers mean anything. The specs are those that the
study itself asks for, so that records are adopted, selected from and reported as real ones are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench.fields import Choice, Space
from kdbench.record import TrialRecord, TrialSpec, with_checksum
from kdbench.search.agenda import Agenda
from kdbench.store import Store
from kdbench.study.load import load_study
from kdbench.study.plan import Trials, latency_spec
from kdbench.study.schema import Study
from kdbench.train.environment import environment

METHODS = ("scratch", "label_smoothing", "kd", "logit_mse", "fitnet", "attention_transfer", "dkd", "rkd", "sp", "vid")
EPOCHS = 100
STUDY = """
study: synthetic
question: How long does a study of thousands of trainings take to read?
data: {{name: digits, validation: 180}}
teacher: {{model: cnn, depth: 8, width: 1.0}}
student: {{model: cnn, depth: 5, width: [0.25, 0.5, 1.0]}}
methods: {{{methods}}}
search: {{trials: {trials}, repeats: {repeats}, objectives: [val_top1_pct, params], sampler: random}}
final: {{select: best, seeds: {seeds}}}
train: {{epochs: {epochs}, batch_size: 64, lr: 0.1}}
pareto: {{reference: {{top1_pct: 50, params: 1.0e5, latency_b1_p50_ms: 1}}}}
track: {{mlflow: "off"}}
"""
PARAMS = {0.25: 2_000, 0.5: 7_000, 1.0: 26_000}


def write(folder: Path, records: int, epochs: int = EPOCHS) -> tuple[Path, int]:
    """Write a study file and a results folder with about so many records below `folder`.

    A twentieth of the records are finals, whose last seed is missing, so that the study is not over. Return the study
    file and the number of records; the results are in `folder / "results"`.
    """
    repeats, seeds = 5, max(records // 20 // len(METHODS), 2)
    trials = max((records - seeds * len(METHODS)) // (repeats * len(METHODS)), 2)
    path = folder / "synthetic.yaml"
    path.write_text(
        STUDY.format(methods=", ".join(f"{n}: " for n in METHODS), trials=trials, repeats=repeats, seeds=seeds + 1,
                     epochs=epochs)
    )  # fmt: skip
    study = load_study(path, [])
    store = Store(folder / "results" / study.study)
    store.write_study(study.to_json(), path.read_text())
    store.records_folder.mkdir(parents=True)
    count = 0
    for record in made(study, seeds):
        count += 1
        text = json.dumps(with_checksum(record.to_json()), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        store.record_path(record.key).write_text(text)
    return path, count


def made(study: Study, seeds: int) -> Iterator[TrialRecord]:
    """The records of the teacher, the whole search, `seeds` seeds of every chosen configuration, and the latencies."""
    draw = random.Random(0)
    agenda = Agenda(study, {}, lambda key: True)
    specs = list(agenda.fixed.values())
    for stream in agenda.streams:
        trials = Trials(study, stream)
        for trial in range(study.search.trials):
            values = {name: drawn(item, draw) for name, item in trials.space.items()} if trial else trials.defaults
            specs.append(trials.spec(trial, values))
    searched = [record_of(spec, draw) for spec in {spec.key: spec for spec in specs}.values()]
    yield from searched
    agenda = Agenda(study, {record.key: record for record in searched}, lambda key: True)
    finals = [spec for spec in agenda.finals() if spec.slot["final"] < seeds]
    yield from (record_of(spec, draw) for spec in finals)
    named = [*agenda.fixed.values(), *finals]
    yield from (record_of(spec, draw) for spec in {s.key: s for s in (latency_spec(study, n) for n in named)}.values())


def drawn(space: Space, draw: random.Random) -> Any:
    """A value of a space."""
    if isinstance(space, Choice):
        return draw.choice(space.values)
    low, high = float(space.low), float(space.high)
    value = low * (high / low) ** draw.random() if space.log and low > 0 else draw.uniform(low, high)
    return round(value) if space.integer else value


def record_of(spec: TrialSpec, draw: random.Random) -> TrialRecord:
    """A finished record of a spec, with the fields and the size of a real one."""
    record = TrialRecord(
        spec=spec, status="finished", result={}, curves={}, environment=facts(spec), attempts=1,
        started="2026-01-01T00:00:00.000+00:00", ended="2026-01-01T00:01:00.000+00:00", wall_s=60.0,
    )  # fmt: skip
    if spec.phase == "latency":
        batches = {f"latency_b{size}_{point}_ms": size**0.5 * (0.2 + 0.02 * draw.random())
                   for size in (1, 256) for point in ("p5", "p50", "p95")}  # fmt: skip
        conditions = {"device": "made up", "device_type": "cpu", "driver": "", "dtype": "float32", "threads": 1,
                      "memory_format": "channels_last", "backend": "eager", "torch": "", "warmup": 10,
                      "repeats": {"b1": 100, "b256": 100}}  # fmt: skip
        return replace(record, result=batches, environment={**record.environment, "latency": conditions})
    width = float(spec.model.get("width", 1.0))
    top1 = 80 + 8 * width + 4 * draw.random()
    curves = curves_of(top1, int(spec.train["epochs"]), draw)
    result = {"epochs": spec.train["epochs"], "train_wall_s": 60.0, "train_device_s": 60.0, "flops": 10**6 * width,
              "params": PARAMS.get(width, 10**5), "size_bytes": 4 * PARAMS.get(width, 10**5) + 5000,
              "best_epoch": spec.train["epochs"], "val_best_epoch_top1_pct": top1,
              **{name: curve[-1] for name, curve in curves.items() if name.startswith("val_")}}  # fmt: skip
    if spec.phase in ("teacher", "final"):
        tested = {name.replace("val_", "test_"): value for name, value in result.items()
                  if name.startswith("val_") and "best_epoch" not in name}  # fmt: skip
        result |= {**tested, "test_best_epoch_top1_pct": top1}
    return replace(record, result=result, curves=curves)


def curves_of(top1: float, epochs: int, draw: random.Random) -> dict[str, list[float]]:
    """Curves that end at an accuracy: the names and the digits of real ones."""
    rise = [top1 * (1 - 0.9 ** (epoch + 1)) + draw.random() for epoch in range(epochs - 1)] + [top1]
    fall = [2.5 - value / 50 + 0.01 * draw.random() for value in rise]
    above = ("val_top1_pct", "val_top5_pct", "val_macro_precision_pct", "val_macro_recall_pct", "val_agreement_pct")
    below = ("train_loss", "train_loss_ce", "train_loss_kd", "val_nll", "val_ece_pct", "val_agreement_kl_nat", "lr",
             "epoch_wall_s")  # fmt: skip
    return {**dict.fromkeys(below, fall), **dict.fromkeys(above, rise)}


def facts(spec: TrialSpec) -> Mapping[str, Any]:
    """The environment of a record."""
    hashes = {"data_hash": "0" * 64, "test_hash": "0" * 64, "teacher_hash": "0" * 64}
    return {**environment(), "device": "cpu", "threads": 1, "precision": "fp32", "train_images": 1257, **hashes}
