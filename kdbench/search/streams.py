"""Which search trials share a stream (kdbench/train/stream.py), and how many at once. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdbench.combine import method_from
from kdbench.errors import KdbenchError
from kdbench.record import TrialSpec, canonical_json
from kdbench.study.schema import Resources
from kdbench.train.serving import cache_in_use, served_by_cache
from kdbench.train.splitting import Spread

AUTO = 8  # students at once: of a teacher's cost little more is left, and each needs memory
ALIKE = ("epochs", "stop_epoch", "batch_size", "precision", "time_limit_s")


def stream_name(spec: TrialSpec) -> str | None:
    """What a search trial has in common with those that it may share a stream with; None where it gains nothing.

    They see the same images in the same order, since trials of one repeat have the same seed, and learn from the same
    teacher while it runs live: one that comes from the view cache costs little. Method, size and learning rate may
    differ. Final trainings never share: their seeds are there to be independent.
    """
    if spec.phase != "search" or spec.teacher is None:
        return None
    try:
        method = method_from(spec.method)
    except KdbenchError:  # a plug-in that refuses these values, which its record will say
        return None
    if "teacher" not in method.frozen or method.has_inputs or method.unlabelled:
        return None
    if cache_in_use() and served_by_cache(method):
        return None
    alike = {name: spec.train.get(name) for name in ALIKE}
    return canonical_json([spec.seed, dict(spec.data), spec.teacher, alike])


def time_counts(objectives: Sequence[str]) -> bool:
    """Whether a search optimises the time that a trial takes, which sharing would make less for some methods only."""
    return not {"train_wall_s", "train_device_s"}.isdisjoint(objectives)


def most_at_once(resources: Resources, spread: Spread) -> int:
    """Students of a stream, at most; 1 where a training has several processes."""
    if spread.processes > 1:
        return 1
    return AUTO if resources.students_per_stream == "auto" else resources.students_per_stream


def group_size(alike: int, startable: int, workers: int, most: int) -> int:
    """How many of the `alike` trainings that could start now one of the workers takes, so that none is left idle.

    startable: how many trainings could start now, those included.
    """
    return max(1, min(most, alike, math.ceil(startable / workers)))
