"""Which rows no other row beats: pure functions of arrays; directions come from METRICS, moocore does the geometry.

The search front (validation, one training each) and the reported front (test means of retrained configurations) are
different things. A set of objectives is either all of the one or all of the other: `objectives` refuses a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import moocore
import numpy as np

from kdbench.errors import KdbenchError, listed
from kdbench.record import METRICS, metric

IDEAL = {"%": {"max": 100.0, "min": 0.0}}  # other units are bounded by 0 where less is better, unbounded otherwise


@dataclass(frozen=True)
class Hypervolume:
    """The volume that a set of points dominates up to a reference point, or the reason why it is not computed.

    value: in the product of the objectives' units. share: of the box between the reference and the ideal point
    (100 % or 0), in [0, 1]; None where an objective has no ideal.
    """

    value: float | None
    share: float | None
    reason: str | None = None


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


def hypervolume(points: np.ndarray, names: Sequence[str], reference: Mapping[str, float] | None) -> Hypervolume:
    """Dominated hypervolume of points (n, len(names)) against the study's reference point.

    reference: value by metric name without split (`top1_pct`, `params`). Points beyond it add nothing.
    """
    names = objectives(names)
    base = [name.removeprefix("val_").removeprefix("test_") for name in names]
    missing = [name for name in base if name not in (reference or {})]
    if reference is None or missing:
        return Hypervolume(None, None, f"not computed: the study's pareto.reference lacks {listed(missing)}")
    points = np.asarray(points, dtype=np.float64).reshape(-1, len(names))
    points = points[np.isfinite(points).all(axis=1)]
    corner = np.array([float(reference[name]) for name in base])
    more = maximise(names)
    value = float(moocore.hypervolume(points, ref=corner, maximise=more)) if len(points) else 0.0
    ideal = [
        IDEAL.get(metric(n).unit, {"min": 0.0}).get("max" if up else "min") for n, up in zip(names, more, strict=True)
    ]
    box = None if None in ideal else float(np.prod(np.abs(np.array(ideal, dtype=np.float64) - corner)))
    return Hypervolume(value, value / box if box else None)
