"""From a job to a record: start or go on, train, evaluate once, measure."""

from __future__ import annotations

import copy
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import CheckpointError, KdbenchError
from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.store import patience_s, patiently
from kdbench.train import checkpoint, measure
from kdbench.train.engine import Engine
from kdbench.train.environment import environment_of
from kdbench.train.faults import fault_of
from kdbench.train.guard import EXITS, contained
from kdbench.train.loop import logits_of
from kdbench.train.metrics import evaluate
from kdbench.train.recipe import Recipe
from kdbench.train.splitting import ONE, Spread
from kdbench.train.starts import note_start, starts_of, utc_now
from kdbench.train.student import training_of
from kdbench.train.tuning import choice_for
from kdbench.train.untrained import measure_latency, record_untrained
from kdbench.train.watch import SETUP_S, TimeLimitError, grace_s, hung, time_limit
from kdbench.train.workshop import TEST_PHASES, Workshop

CHECKPOINT = "checkpoint.safetensors"
ENDS = (Exception, TimeLimitError, *EXITS)  # what may end a training
UNTRAINED = ("checkpoint", "ensemble")  # what stands for a method's name where a network is not trained here


class Run:
    """One job on one worker: `advance()` epoch by epoch until `over`, then `record()`.

    Every epoch leaves a checkpoint in the job's work folder; a Run of the same job goes on from it.
    spent_s: what it has cost so far. facts: more for the record's environment.
    """

    def __init__(self, job: Job, shop: Workshop) -> None:
        self.job, self.spec, self.shop = job, job.spec, shop
        began = time.monotonic()
        self.spent_s: Callable[[], float] = lambda: time.monotonic() - began
        self.facts: dict[str, Any] = {}
        self.folder = shop.store.work_folder(self.spec.key)
        self.starts = note_start(self.folder)
        self.recipe = Recipe.from_json(self.spec.train)
        self.checkpoint = self.folder / CHECKPOINT
        self.choice = choice_for(self.spec, self.recipe, shop, self.checkpoint)
        self.engine = Engine.numbered(shop.group.agree(self.choice.engine.number))
        self.precision = self.engine.precision
        self.training = training_of(job, shop, self.recipe, self.engine)
        self.set_aside = self.folder / "set_aside.txt"  # a file, because this training may die too
        self.unwritten: list[str] = []  # why checkpoints are missing
        self._best_kept: tuple[int, dict[str, Any]] | None = None  # where the disk would not take it
        self._restore()
        shop.group.agree(self.training.epochs_done)  # the other processes go on from the same checkpoint

    def _restore(self) -> None:
        """Go on from the checkpoint if there is one; a damaged one is set aside, with a note for the record."""
        if not self.checkpoint.exists():
            return
        try:
            self.training.restore(self.checkpoint)
        except CheckpointError as error:
            self.set_aside.write_text(str(error))
            self.checkpoint.replace(self.checkpoint.with_suffix(".damaged"))
            self.training = training_of(self.job, self.shop, self.recipe, self.engine)

    def engine_facts(self) -> dict[str, Any]:
        """How the steps are computed, and how that was chosen."""
        return {**self.choice.facts(), **self.training.engine.to_json()}

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        return self.training.over or self.timed_out

    @property
    def timed_out(self) -> bool:
        """Whether the time limit of the recipe has passed before the end."""
        limit = self.recipe.time_limit_s
        return limit is not None and not self.training.over and self.training.wall_s >= limit

    def advance(self) -> dict[str, float]:
        """Train one epoch and leave a checkpoint; returns the curves' point."""
        point = self.training.epoch()
        self.keep()
        return point

    def keep(self) -> None:
        """Leave a checkpoint. A disk that does not take it is noted: it costs time at worst."""
        try:
            self._keep_best()
            self.training.save(self.checkpoint, {"key": self.spec.key, "engine": self.engine_facts()})
        except OSError as error:
            if fault_of(error, self.shop.store.folder) is None:
                raise
            self.unwritten.append(f"epoch {self.training.epochs_done}: {error}")

    def _best_path(self, epoch: int) -> Path:
        return self.folder / f"best_epoch_{epoch}.safetensors"

    def _keep_best(self) -> None:
        """Keep the weights of the epoch that is the best so far, where it is tested later; the last one needs no copy.

        Before the checkpoint, and beside the best one before: whichever of the two the checkpoint then goes on from,
        the weights of its best epoch are there.
        """
        training = self.training
        if self.spec.phase not in TEST_PHASES or training.over or best_epoch(training.curves) != training.epochs_done:
            return
        facts = {"key": self.spec.key, "epoch": training.epochs_done}
        self._best_kept = (training.epochs_done, {k: v.clone() for k, v in training.student.state_dict().items()})
        checkpoint.save(self._best_path(training.epochs_done), training.student.state_dict(), facts)
        self._best_kept = None
        for path in self.folder.glob("best_epoch_*.safetensors"):
            if path not in (self._best_path(training.epochs_done), self._best_path(self._best_before())):
                path.unlink()

    def _best_before(self) -> int:
        """The best epoch as the last checkpoint knows it; 0 before the second epoch."""
        curve = self.training.curves["val_top1_pct"][:-1]
        return best_epoch({"val_top1_pct": curve}) if curve else 0

    def record(self) -> TrialRecord:
        """Evaluate, save the student, measure its size, and say what came out."""
        training, spec, path = self.training, self.spec, self.shop.store.weights_path(self.spec.key)
        net, curves = training.student, training.curves
        wall_s = round(training.wall_s, 3)
        result: dict[str, float] = {"epochs": training.epochs_done, "train_wall_s": wall_s}
        result["train_device_s"] = wall_s * self.shop.group.size
        status = "diverged" if training.diverged else "timed_out" if self.timed_out else "finished"
        result.update(last(curves, "val_"))
        if "val_top1_pct" in curves and status == "finished":
            best = best_epoch(curves)
            result["best_epoch"] = best
            result["val_best_epoch_top1_pct"] = curves["val_top1_pct"][best - 1]
        shape = self.shop.splits(spec.data).image_shape
        result["params"] = measure.parameter_count(net)
        result["size_bytes"] = measure.size_bytes(net)
        result["flops"] = measure.flops(net, shape)
        if status == "finished":
            if spec.phase in TEST_PHASES:
                result.update(self._test())
            if spec.phase != "search":
                patiently(lambda: checkpoint.save(path, net.state_dict(), {"spec": spec.to_json()}, durable=True))
        errors = {
            "diverged": f"the loss is not finite after epoch {training.epochs_done}",
            "timed_out": f"stopped after {training.wall_s:.0f} s, the limit is {self.recipe.time_limit_s} s",
        }
        return self._record(status, result, curves, errors.get(status))

    def _test(self) -> dict[str, float]:
        """Metrics on the test images, which the trained student meets here for the first and only time."""
        views, labels, _ = self.shop.test(self.spec)
        teacher = self.job.teacher
        other = None if teacher is None else self.shop.teacher_logits(teacher, self.spec, "test", self.precision)
        logits = logits_of(self.training.student, views, self.precision)
        metrics = evaluate(logits, labels, other)
        best = self._top1_of_best(metrics["top1_pct"])
        return {f"test_{name}": value for name, value in {**metrics, **best}.items()}

    def _top1_of_best(self, last_pct: float) -> dict[str, float]:
        """Accuracy on the test images of the epoch that was best on validation; nothing where its weights are gone.

        last_pct: that of the last epoch, which is often the best.
        """
        best = best_epoch(self.training.curves)
        if best == self.training.epochs_done:
            return {"best_epoch_top1_pct": last_pct}
        try:
            kept = self._best_kept
            tensors = kept[1] if kept and kept[0] == best else checkpoint.load(self._best_path(best))[0]
        except CheckpointError:  # begun by a kdbench that kept none, or damaged: no reason to lose a whole training
            return {}
        net = copy.deepcopy(self.training.student)
        checkpoint.load_weights(net, tensors, f"{self._best_path(best)}")
        views, labels, _ = self.shop.test(self.spec)
        return {"best_epoch_top1_pct": evaluate(logits_of(net, views, self.precision), labels)["top1_pct"]}

    def _record(self, status: Any, result: dict[str, float], curves: Any, error: str | None) -> TrialRecord:
        splits = self.shop.splits(self.spec.data)
        facts: dict[str, Any] = {
            "device": str(self.shop.device),
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "engine": self.engine_facts(),
            "data_hash": splits.hash,
            "train_images": len(splits.train.labels),
            **self.shop.group.facts(),
            **self.facts,
        }
        if status == "finished" and self.spec.phase in TEST_PHASES:
            facts["test_hash"] = self.shop.test(self.spec)[2]
        for role, spec in (("teacher", self.job.teacher), ("init", self.job.init)):
            if spec is not None:
                facts[f"{role}_hash"] = self.shop.weights_hash(spec)
        if self.set_aside.exists():
            facts["checkpoint_set_aside"] = self.set_aside.read_text()
        if len(self.starts) > 1:
            facts["starts"] = self.starts
        if self.unwritten:
            facts["checkpoints_not_written"] = self.unwritten
        return TrialRecord(
            spec=self.spec,
            status=status,
            result=result,
            curves=curves,
            environment={**environment_of(self.spec), **facts},
            attempts=len(self.starts),
            started=self.starts[0],
            ended=utc_now(),
            wall_s=round(self.spent_s(), 3),
            error=error,
        )


def best_epoch(curves: Mapping[str, list[float]]) -> int:
    """The epoch, from 1, with the highest top-1 accuracy on validation; of several the first."""
    curve = curves["val_top1_pct"]
    return curve.index(max(curve)) + 1


def last(curves: dict[str, list[float]], prefix: str) -> dict[str, float]:
    """The last point of every curve whose name starts with `prefix`."""
    return {
        name: values[-1] for name, values in curves.items() if name.startswith(prefix) and math.isfinite(values[-1])
    }


def run_job(job: Job, shop: Workshop, spread: Spread = ONE) -> Iterator[dict[str, float] | TrialRecord]:
    """Run a job: yield the curves' point of each epoch, and at last the record.

    An error of the method, the model or the data becomes a record with status `failed`, and a training that hangs until
    its time limit and the grace have passed one with status `timed_out`. Errors of the machine (out of memory, a full
    disk: see `fault_of`) are raised, because trying again may help. spread: over how many processes a training
    is spread; what is no training runs in this one.
    """
    began, spec = time.monotonic(), job.spec
    folder = shop.store.work_folder(spec.key)
    limit = spec.train.get("time_limit_s")
    run: Run | None = None
    try:
        if (place := hung(folder)) is not None:
            yield no_end(spec, limit, place, starts_of(folder), run)
            return
        if spec.phase == "latency":
            yield measure_latency(job, shop)
            return
        if spec.phase == "evaluation":
            from kdbench.train.evaluation import evaluate_final  # which builds its student as this module does

            yield evaluate_final(job, shop)
            return
        if spec.method_name in UNTRAINED:
            yield record_untrained(job, shop)
            return
        if spread.processes > 1:
            from kdbench.train.spread import run_spread  # whose processes run this function

            yield from run_spread(job, shop, spread)
            return
        with time_limit(limit and limit + SETUP_S, folder):
            run = Run(job, shop)
        while shop.group.agree(not run.over):
            with time_limit(limit and limit - run.training.wall_s, folder):
                point = run.advance()
            yield point
        with time_limit(limit and limit + patience_s(), folder):
            record = run.record()
        yield record
    except ENDS as error:
        yield ended_by(error, job, shop, run, time.monotonic() - began)


def ended_by(error: BaseException, job: Job, shop: Workshop, run: Run | None, wall_s: float) -> TrialRecord:
    """The record of a training that was ended by an error, one of ENDS.

    Whatever a method raises is that method's result, and must not end the study; an error of the machine, or of who
    wants to end the run, is raised again. wall_s: what the training has cost.
    """
    spec, starts = job.spec, starts_of(shop.store.work_folder(job.spec.key))
    if isinstance(error, TimeLimitError):
        return no_end(spec, spec.train.get("time_limit_s"), last_line(error), starts, run)
    if fault_of(error, shop.store.folder) is not None:
        raise error
    return failed(spec, contained(error, shop), wall_s, starts)


def no_end(spec: TrialSpec, limit: float | None, place: str, starts: list[str], run: Run | None) -> TrialRecord:
    """The record of a training that hung, with the curves of the epochs before."""
    why = f"stopped after the limit of {limit} s and a grace of {grace_s():g} s, in: {place}"
    wall_s = run.training.wall_s if run is not None else 0.0
    record = replace(failed(spec, KdbenchError(why), wall_s, starts), status="timed_out")
    if run is None:
        return record
    return replace(record, result={"epochs": run.training.epochs_done}, curves=run.training.curves)


def last_line(error: BaseException) -> str:
    """Where an error was raised, as Python prints it."""
    (frame,) = traceback.extract_tb(error.__traceback__)[-2:-1]  # the last one is the signal's handler
    return f'File "{frame.filename}", line {frame.lineno} in {frame.name}'


def failed(
    spec: TrialSpec, error: BaseException, wall_s: float, starts: list[str], status: Any = "failed"
) -> TrialRecord:
    """The record of a training that ended in an error: its message on one line, its traceback in the environment."""
    facts: dict[str, Any] = {"traceback": traceback_of(error)} if error.__traceback__ is not None else {}
    if len(starts) > 1:
        facts["starts"] = starts
    text = f"{type(error).__name__}: {error}" if not isinstance(error, KdbenchError) else str(error)
    return TrialRecord(
        spec=spec,
        status=status,
        result={},
        curves={},
        environment={**environment_of(spec), **facts},
        attempts=max(len(starts), 1),
        started=starts[0] if starts else utc_now(),
        ended=utc_now(),
        wall_s=round(wall_s, 3),
        error=" ".join(text.split()),
    )


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, with paths from the folders of kdbench and of installed packages on."""
    text = "".join(traceback.format_exception(error))
    for folder in (Path(torch.__file__).resolve().parents[1], Path(__file__).resolve().parents[2]):
        text = text.replace(f"{folder}{os.sep}", "")
    return text
