"""Which engine a training gets: that of its checkpoint, what was asked for, or the fastest of a few measured steps.

What is measured is the student alone, on the study's own images, so the choice is the same for every method; it is made
once for a student, a device and a number of threads, and kept beside the study's trainings. Steps of two engines take
turns, and the one that is there by default loses only to one that is faster by a clear margin: the engines differ in
the last bits of what they compute, and noise must not decide them. A training that is short next to the measurement
takes the default.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdbench import strict_json
from kdbench.combine import method_from
from kdbench.errors import CheckpointError, KdbenchError
from kdbench.record import TrialRecord, TrialSpec, canonical_json
from kdbench.store import write_atomic
from kdbench.train import checkpoint
from kdbench.train.engine import Engine, before_engines, override
from kdbench.train.loop import Training
from kdbench.train.recipe import Recipe, resolve_precision
from kdbench.train.task import Task
from kdbench.train.workshop import Workshop

STEPS, WARM_UP = 20, 5  # of each engine
MARGIN = 1.1  # times faster than the default, or it stays
WORTH = 50  # times the steps of a measurement that a training must have
ALONE = {"name": "scratch"}  # the method whose steps are measured

Stepper = Callable[[], object]


@dataclass(frozen=True)
class Choice:
    """An engine and how it came about.

    origin: `default`, `measured`, `asked` (KDBENCH_ENGINE), or that of a `checkpoint` or `record` from before engines.
    step_ms: medians of the engines that were measured, by what tells them from the default.
    """

    engine: Engine
    origin: str
    step_ms: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        """What a checkpoint and a record say of it."""
        measured = {"step_ms": dict(self.step_ms)} if self.step_ms else {}
        return {**self.engine.to_json(), "origin": self.origin, **measured}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], origin: str | None = None) -> Choice:
        """Inverse of `facts`. Raise KdbenchError for an engine that is not known here."""
        return cls(Engine.from_json(facts), origin or facts.get("origin", "default"), facts.get("step_ms", {}))


def choice_for(spec: TrialSpec, recipe: Recipe, shop: Workshop, checkpointed: Path) -> Choice:
    """The engine of a training, before its first step or where it goes on. Raise KdbenchError for an unknown one.

    checkpointed: where its checkpoint is, if there is one; it keeps the engine that it was begun with.
    """
    precision = resolve_precision(recipe.precision, shop.device)
    if (facts := facts_of(checkpointed)) is not None:
        begun = facts.get("engine")
        return Choice.from_facts(begun) if begun else Choice(before_engines(precision), "checkpoint", {})
    if shop.engine is not None:
        return Choice.from_facts(shop.engine)
    default = Engine(precision)
    if asked := override():
        return Choice(replace(default, **asked), "asked", {})
    rivals = candidates(default, recipe, shop)
    steps = len(shop.labels(spec.data, "train")) // recipe.batch_size * recipe.last_epoch
    if not rivals or steps < WORTH * (STEPS + WARM_UP) * 2 * len(rivals) or shop.group.size > 1:
        return Choice(default, "default", {})
    return kept(spec, recipe, shop, default, lambda: measured(spec, recipe, shop, default, rivals))


def engine_of(record: TrialRecord, device: torch.device) -> dict[str, Any] | None:
    """Facts of the engine with which a record's training would come out alike on `device`, for `Workshop.engine`.

    None where that is another kind of device, or has no bf16 where the record has it. A record that names no engine was
    made before there was a choice.
    """
    facts = record.environment
    precision = facts.get("precision", "fp32")
    if str(facts.get("device", device)).partition(":")[0] != device.type:
        return None
    if precision == "bf16" != resolve_precision("auto", device):
        return None
    return facts.get("engine") or {**before_engines(precision).to_json(), "origin": "record"}


def facts_of(path: Path) -> dict[str, Any] | None:
    """What a checkpoint says of its training; None where there is none that can be read."""
    try:
        return checkpoint.facts(path)
    except CheckpointError:  # which whoever loads it will set aside
        return None


def candidates(default: Engine, recipe: Recipe, shop: Workshop) -> list[dict[str, str]]:
    """What may be changed in the default, one after the other. Precision only where the study leaves it open and the
    hardware has bf16."""
    found: list[dict[str, str]] = []
    if recipe.precision == "auto" and default.precision == "bf16":
        found.append({"precision": "fp32"})
    found += [{"memory_format": "contiguous"}, {"optimizer": "foreach"}]
    if shop.device.type == "cuda":
        found.append({"step": "graph"})
    return found


def kept(spec: TrialSpec, recipe: Recipe, shop: Workshop, default: Engine, measure: Callable[[], Choice]) -> Choice:
    """The choice that is on file for this student and hardware, or a new one, which is filed.

    Two workers may measure at once: the first one's file stays, and both go by it.
    """
    path = shop.store.folder / "work" / f"engine-{place_of(spec, recipe, shop, default)}.json"
    if (found := filed(path)) is None:
        made = measure()
        found = file_first(path, made)
    return found


def place_of(spec: TrialSpec, recipe: Recipe, shop: Workshop, default: Engine) -> str:
    """A name for all that the speed of the student's steps depends on."""
    cuda = shop.device.type == "cuda"
    of = {
        "data": dict(spec.data),
        "model": dict(spec.model),
        "batch_size": recipe.batch_size,
        "optimizer": recipe.optimizer,
        "default": default.to_json(),
        "precision": recipe.precision,
        "device": torch.cuda.get_device_name(shop.device) if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return hashlib.sha256(canonical_json(of).encode()).hexdigest()[:16]


def filed(path: Path) -> Choice | None:
    """The choice in a file; None where there is none that can be read."""
    try:
        facts = strict_json.loads(path.read_text())
        return Choice.from_facts(facts) if isinstance(facts, dict) else None
    except (OSError, ValueError, KdbenchError):
        return None


def file_first(path: Path, made: Choice) -> Choice:
    """File a choice unless another worker was faster; returns the one that is on file."""
    if filed(path) is None:
        path.unlink(missing_ok=True)  # damaged
    own = path.with_name(f".{path.name}.{os.getpid()}.new")
    write_atomic(own, (json.dumps(made.facts(), indent=1) + "\n").encode(), durable=False)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(own, path)  # unlike a rename, it never replaces what another worker goes by
    finally:
        own.unlink()
    return filed(path) or made


def measured(spec: TrialSpec, recipe: Recipe, shop: Workshop, default: Engine, rivals: list[dict[str, str]]) -> Choice:
    """The fastest engine: each change is tried on the best one so far."""
    best, step_ms = default, {}
    for change in rivals:
        rival = replace(best, **change)
        try:
            steppers = [stepper(spec, recipe, shop, engine) for engine in (best, rival)]
            own, other = duel(*steppers)
        except (RuntimeError, KdbenchError) as error:  # as out of memory: what cannot be measured is not chosen
            if shop.device.type != "cuda":
                raise
            torch.cuda.empty_cache()
            step_ms[f"{name_of(change)} ({type(error).__name__})"] = float("nan")
            continue
        step_ms |= {"default": step_ms.get("default", own), name_of(change): other}
        if other * MARGIN < own:
            best = rival
    return Choice(best, "measured", {name: round(value, 3) for name, value in step_ms.items() if value == value})


def name_of(change: Mapping[str, str]) -> str:
    """`memory_format=contiguous`: a change as KDBENCH_ENGINE would say it."""
    return ",".join(f"{name}={value}" for name, value in change.items())


def stepper(spec: TrialSpec, recipe: Recipe, shop: Workshop, engine: Engine) -> Stepper:
    """A function that makes the next step of the spec's student, trained alone from its first weights."""
    views, labels = shop.views(spec.data, "train"), shop.labels(spec.data, "train")
    task = Task(views, labels, shop.views(spec.data, "validation"), shop.labels(spec.data, "validation"))
    training = Training(method_from(ALONE), shop.network(spec), task, recipe, spec.seed, engine)
    training.train_mode()
    draws = training.generator("sample", shop.device)
    size = recipe.batch_size
    batches = itertools.cycle(range(len(labels) // size))

    def step() -> None:
        low = next(batches) * size
        index = torch.arange(low, low + size, device=shop.device)
        training.set_lr(0.0)
        training.step(index, index % views.count, draws, 0.0)

    return step


def duel(one: Stepper, other: Stepper) -> tuple[float, float]:
    """Medians in ms of STEPS steps of each, which take turns, after WARM_UP of each."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.random.fork_rng():
        for number in range(WARM_UP + STEPS):
            for step, taken in zip((one, other), times, strict=True):
                taken.append(1000 * seconds(step))
                if number < WARM_UP:
                    taken.clear()
    return statistics.median(times[0]), statistics.median(times[1])


def seconds(step: Stepper) -> float:
    """Seconds of a step, until the device has done it; of one thread of a CPU its own, whatever else runs there."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.thread_time if alone else time.perf_counter
    began = clock()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began
