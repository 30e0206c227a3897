"""Further measurements of a retrained student from its stored weights, on test images. Nothing is selected by them."""

from __future__ import annotations

import hashlib
import io
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from kdbench import strict_json
from kdbench.data.corruptions import RELEASE, WITH_PILLOW, corrupt
from kdbench.data.stratify import choose
from kdbench.data.views import Views
from kdbench.errors import KdbenchError
from kdbench.nets.base import Network
from kdbench.record import Job, TrialRecord, canonical_json
from kdbench.seeds import seed_for
from kdbench.store import write_atomic
from kdbench.train import checkpoint
from kdbench.train.loop import logits_of
from kdbench.train.metrics import evaluate, fidelity
from kdbench.train.recipe import Recipe, resolve_precision
from kdbench.train.starts import note_start
from kdbench.train.student import deployed
from kdbench.train.untrained import measured
from kdbench.train.workshop import Workshop


def evaluate_final(job: Job, shop: Workshop) -> TrialRecord:
    """Measure the student that `job.init` trained, as `job.spec.train` asks: agreement with the teacher, corruptions.

    Raise KdbenchError where the job lacks the final training, or the teacher that it asks for.
    """
    spec, final = job.spec, job.init
    if final is None:
        raise KdbenchError("an evaluation needs the final training whose student it measures")
    starts, began = note_start(shop.store.work_folder(spec.key)), time.monotonic()
    precision = resolve_precision(Recipe.from_json(final.train).precision, shop.device)
    net = student_of(job, shop)
    result: dict[str, float] = {}
    facts: dict[str, Any] = {"device": str(shop.device), "threads": torch.get_num_threads(), "precision": precision}
    facts |= {"test_hash": shop.test(spec)[2], "init_hash": shop.weights_hash(final)}
    if spec.train.get("agreement"):
        if job.teacher is None:
            raise KdbenchError("agreement was asked for, but there is no teacher to agree with")
        logits = logits_of(net, shop.test(spec)[0], precision)
        found = fidelity(logits, shop.teacher_logits(job.teacher, spec, "test", precision))
        result |= {f"test_{name}": value for name, value in found.items()}
        facts["teacher_hash"] = shop.weights_hash(job.teacher)
    if (asked := spec.train.get("corruptions")) is not None:
        accuracy = under_corruptions(job, shop, net, precision)
        result |= summary(accuracy)
        facts["corrupted_top1_pct"], facts["corrupted_images"] = accuracy, asked["images"]
    return measured(spec, result, facts, starts, began)


def student_of(job: Job, shop: Workshop) -> Network:
    """The student as its final training left it: what the method deploys, with the stored weights."""
    assert job.init is not None
    given = {member.key: member for member in job.members}
    final = Job(job.init, teacher=given.get(str(job.init.teacher)), init=given.get(str(job.init.init)))
    net = deployed(final, shop)
    checkpoint.load_weights(net, shop.weights(job.init, "student"), f"the student {job.init.key}")
    return net.to(shop.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def under_corruptions(job: Job, shop: Workshop, net: Network, precision: str) -> dict[str, dict[str, float]]:
    """Top-1 accuracy in percent by corruption and severity, and under `none` that on the same images as they are.

    What is measured is noted in the work folder at once, so that an evaluation goes on where it was killed.
    """
    asked, note = job.spec.train["corruptions"], shop.store.work_folder(job.spec.key) / "evaluated.json"
    positions = chosen_positions(shop, job, asked["images"])
    labels = shop.test(job.spec)[1][torch.from_numpy(positions).to(shop.device)]
    done: dict[str, dict[str, float]] = strict_json.read(note) if note.exists() else {}
    for name in ("none", *asked["names"]):
        for severity in (0,) if name == "none" else asked["severities"]:
            if str(severity) in done.get(name, {}):
                continue
            views = corrupted_views(job, shop, name, severity, positions)
            top1_pct = evaluate(logits_of(net, views, precision), labels)["top1_pct"]
            done.setdefault(name, {})[str(severity)] = top1_pct
            write_atomic(note, json.dumps(done).encode(), durable=False)
    return done


def summary(accuracy: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Results of a record: the mean over severities of each corruption, and the mean over all."""
    means = {name: statistics.fmean(found.values()) for name, found in accuracy.items()}
    uncorrupted = means.pop("none")
    return {
        "test_uncorrupted_top1_pct": uncorrupted,
        "test_corrupted_top1_pct": statistics.fmean(means.values()),
        **{f"test_corrupted_{name}_top1_pct": value for name, value in means.items()},
    }


def chosen_positions(shop: Workshop, job: Job, count: int | None) -> np.ndarray:
    """Positions of the test images that are corrupted, int64 (N,): all, or `count` of them, each class in proportion;
    the same for every student."""
    labels = shop.test(job.spec)[1].cpu().numpy()
    if count is None or count >= len(labels):
        return np.arange(len(labels))
    return choose(labels, count, seed_for(0, "corrupted images"))


def corrupted_views(job: Job, shop: Workshop, name: str, severity: int, positions: np.ndarray) -> Views:
    """Views of corrupted test images; `none`: of the images as they are."""
    splits = shop.splits(job.spec.data)
    images = shop.test_images(job.spec)[torch.from_numpy(positions)].numpy()
    if name != "none":
        images = stored(shop, job, name, severity, positions, images)
    return Views(torch.from_numpy(images), 0, False, splits.mean, splits.std, device=shop.device)


def stored(
    shop: Workshop, job: Job, name: str, severity: int, positions: Sequence[int] | np.ndarray, images: np.ndarray
) -> np.ndarray:
    """Corrupted images, made by whoever needs them first and kept in the study's work folder, which may be deleted."""
    makers = [version(package) for package in ("numpy", "scipy", *(("pillow",) if name in WITH_PILLOW else ()))]
    what = [RELEASE, name, severity, shop.test(job.spec)[2], [int(p) for p in positions], makers]
    digest = hashlib.sha256(canonical_json(what).encode()).hexdigest()[:16]
    path = shop.store.folder / "work" / "corrupted" / f"{name}-{severity}-{digest}.npy"
    if path.exists():
        found = np.load(path, allow_pickle=False)
        if found.shape == images.shape and found.dtype == np.uint8:
            return found  # type: ignore[no-any-return]
    made = corrupt(images, name, severity, positions)
    out = io.BytesIO()
    np.save(out, made, allow_pickle=False)
    write_atomic(path, out.getvalue(), durable=False)
    return made
