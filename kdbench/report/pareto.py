"""Which points no other point beats, and how good a set of points is: pure functions of arrays; moocore does the work.

Directions come from METRICS, the reference point and the ideal from the study. The search front (validation, one
training each) and the reported front (test means of retrained configurations) are different things. A set of objectives
is either all of the one or all of the other: `objectives` refuses a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import moocore
import numpy as np

from kdbench.errors import KdbenchError, listed
from kdbench.record import METRICS, metric
from kdbench.study.objectives import natural_ideal

SPLITS = ("val_", "test_")
TOLERANCE = 1e-12  # of normalised objectives: less is rounding


@dataclass(frozen=True)
class Hypervolume:
    """The volume that a set of points dominates up to a reference point, or the reason why it is not computed.

    value: in the product of the objectives' units. share: of the box between the reference and the ideal point, in
    [0, 1] where no point is better than the ideal; None where an objective has no ideal.
    """

    value: float | None
    share: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Box:
    """The normalisation of some objectives, as the study fixes it: `worst` becomes 1, `best` becomes 0. Both (d,)."""

    names: tuple[str, ...]
    worst: np.ndarray
    best: np.ndarray

    def normalised(self, points: np.ndarray) -> np.ndarray:
        """Points (n, d) with less better in every objective, 0 at the ideal and 1 at the reference; not clipped."""
        more = maximise(self.names)
        lower, upper = np.where(more, self.worst, self.best), np.where(more, self.best, self.worst)
        points = np.asarray(points, dtype=np.float64).reshape(-1, len(self.names))
        if not len(points):  # moocore refuses none
            return points
        return np.asarray(moocore.normalise(points, lower=lower, upper=upper, maximise=more))


def maximise(names: Sequence[str]) -> list[bool]:
    """Whether more is better, for each result's name. Raise KdbenchError for a name that has no direction."""
    out = []
    for name in names:
        try:
            direction = metric(name).direction
        except KeyError:
            direction = "none"
        if direction == "none":
            raise KdbenchError(f"'{name}' has no better direction. Objectives: {listed(METRICS)} (with val_ or test_).")
        out.append(direction == "max")
    return out


def objectives(names: Sequence[str]) -> tuple[str, ...]:
    """The names, checked: known, distinct, and not validation and test at once. Raise KdbenchError otherwise."""
    maximise(names)
    if len(names) < 2 or len(set(names)) < len(names):
        raise KdbenchError(f"a front needs at least two different objectives; got {listed(names)}.")
    if {name.split("_")[0] for name in names} >= {"val", "test"}:
        raise KdbenchError(
            f"{listed(names)}: the search front (validation) and the reported front (test) are never mixed."
        )
    return tuple(names)


def bare(name: str) -> str:
    """A metric's name without its split: `top1_pct` for `test_top1_pct`."""
    return next((name.removeprefix(split) for split in SPLITS if name.startswith(split)), name)


def on_front(points: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Which points no other point dominates: (n,) bool. points: (n, len(names)).

    Equal points are on the front together; a point with a missing value (NaN) is never on it.
    """
    names = objectives(names)
    points = np.asarray(points, dtype=np.float64).reshape(-1, len(names))
    complete = np.isfinite(points).all(axis=1)
    flags = np.zeros(len(points), dtype=bool)
    if complete.any():
        flags[complete] = moocore.is_nondominated(points[complete], maximise=maximise(names), keep_weakly=True)
    return flags


def dominates(points: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Who dominates whom, of points (..., n, len(names)): (..., n, n) bool, [i, j] where i dominates j.

    i dominates j where it is nowhere worse and somewhere better; equal points do not dominate each other.
    """
    losses = np.where(maximise(objectives(names)), -1.0, 1.0) * np.asarray(points, dtype=np.float64)
    shape = (*losses.shape[:-1], losses.shape[-2])
    no_worse, better = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for loss in np.moveaxis(losses, -1, 0):  # one objective at a time: many replicates of many rows are large
        first, second = loss[..., :, None], loss[..., None, :]
        no_worse &= first <= second
        better |= first < second
    return no_worse & better


def box(names: Sequence[str], reference: Mapping[str, float], ideal: Mapping[str, float]) -> Box | str:
    """The normalisation of some objectives, or the reason why there is none.

    reference, ideal: by metric name without split (`top1_pct`, `params`). Without an ideal the natural one counts:
    100 % or 0.
    """
    base = [bare(name) for name in objectives(names)]
    missing = [name for name in base if name not in reference]
    if missing:
        return f"the study's pareto.reference lacks {listed(missing)}"
    best = [ideal.get(name, natural_ideal(name)) for name in base]
    without = [name for name, value in zip(base, best, strict=True) if value is None]
    if without:
        return f"the study's pareto.ideal lacks {listed(without)}, which has no natural one"
    found = Box(tuple(names), np.array([float(reference[name]) for name in base]), np.array(best, dtype=np.float64))
    return found if (found.worst != found.best).all() else "pareto.reference is no worse than the ideal"


def hypervolume(
    points: np.ndarray,
    names: Sequence[str],
    reference: Mapping[str, float] | None,
    ideal: Mapping[str, float] | None = None,
) -> Hypervolume:
    """Dominated hypervolume of points (n, len(names)) against the study's reference point.

    reference, ideal: by metric name without split (`top1_pct`, `params`). Points beyond the reference add nothing.
    Source: Zitzler and Thiele 1999; moocore.hypervolume.
    """
    names = objectives(names)
    base = [bare(name) for name in names]
    missing = [name for name in base if name not in (reference or {})]
    if reference is None or missing:
        return Hypervolume(None, None, f"not computed: the study's pareto.reference lacks {listed(missing)}")
    points = np.asarray(points, dtype=np.float64).reshape(-1, len(names))
    points = points[np.isfinite(points).all(axis=1)]
    corner = np.array([float(reference[name]) for name in base])
    value = float(moocore.hypervolume(points, ref=corner, maximise=maximise(names))) if len(points) else 0.0
    found = box(names, reference, ideal or {})
    return Hypervolume(value, None if isinstance(found, str) else value / float(np.prod(abs(found.worst - found.best))))


def knee(points: np.ndarray, names: Sequence[str]) -> int | None:
    """The point of a front that bulges most towards the ideal: the farthest from the plane through the extreme points.

    points: (n, d). None where no point is on that side of the plane, or where fewer than d points are extreme. An
    objective's unit and zero change nothing: an affine map keeps the order of the distances to a plane.
    Source: Das 1999, On characterizing the 'knee' of the Pareto curve based on normal-boundary intersection,
    doi:10.1007/BF01195985.
    """
    flags = on_front(points, names)
    losses = np.where(maximise(names), -1.0, 1.0) * np.asarray(points, dtype=np.float64)
    places = np.flatnonzero(flags)
    front = losses[places]
    d = front.shape[1]
    extreme = np.array([front[np.lexsort((*front.T, front[:, j]))[0]] for j in range(d)]) if len(front) else front
    spread = np.ptp(extreme, axis=0) if len(extreme) else np.zeros(d)
    if len(np.unique(extreme, axis=0)) < d or not (spread > 0).all():
        return None
    scaled, corners = (front - extreme.min(axis=0)) / spread, (extreme - extreme.min(axis=0)) / spread
    if np.linalg.matrix_rank(corners[1:] - corners[0]) < d - 1:
        return None
    normal = np.linalg.svd(corners[1:] - corners[0])[2][-1]
    normal = normal * np.sign(normal.sum())
    gain = (corners[0] - scaled) @ normal
    return int(places[int(np.argmax(gain))]) if (normal > 0).all() and gain.max() > TOLERANCE else None
