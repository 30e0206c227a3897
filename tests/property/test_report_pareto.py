"""What holds of every set of points: order, orientation and duplicates change nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.report.pareto import hypervolume, on_front

NAMES = ("test_top1_pct", "test_nll", "params")
REFERENCE = {"top1_pct": 0.0, "nll": 11.0, "params": 11.0}
POINTS = st.lists(st.tuples(*[st.integers(0, 10)] * 3), min_size=1, max_size=12).map(lambda p: np.array(p, dtype=float))


def dominated(points: np.ndarray) -> np.ndarray:
    """By definition: another point is nowhere worse and somewhere better. More is better in the first column only."""
    better = points * np.array([-1.0, 1.0, 1.0])
    return np.array([any((q <= p).all() and (q < p).any() for q in better) for p in better])


@settings(deadline=None)
@given(POINTS)
def test_the_front_is_what_the_definition_says(points: np.ndarray) -> None:
    assert (on_front(points, NAMES) == ~dominated(points)).all()


@settings(deadline=None)
@given(POINTS, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_of_objectives_changes_nothing(points: np.ndarray, random: object) -> None:
    rows, columns = list(range(len(points))), [0, 1, 2]
    random.shuffle(rows)  # type: ignore[attr-defined]
    random.shuffle(columns)  # type: ignore[attr-defined]
    shuffled = points[rows][:, columns]
    names = [NAMES[i] for i in columns]
    assert (on_front(shuffled, names) == on_front(points, NAMES)[rows]).all()
    assert np.isclose(hypervolume(shuffled, names, REFERENCE).value, hypervolume(points, NAMES, REFERENCE).value)


@settings(deadline=None)
@given(POINTS)
def test_turning_an_objective_round_gives_the_same_front(points: np.ndarray) -> None:
    turned = points * np.array([1.0, -1.0, 1.0])  # less of nll is better; more of its negative, read as top-5, is too
    assert (on_front(turned, ("test_top1_pct", "test_top5_pct", "params")) == on_front(points, NAMES)).all()


@settings(deadline=None)
@given(POINTS)
def test_a_duplicate_is_on_the_front_exactly_if_its_twin_is(points: np.ndarray) -> None:
    once, twice = on_front(points, NAMES), on_front(np.vstack([points, points]), NAMES)
    assert (twice == np.concatenate([once, once])).all()


@settings(deadline=None)
@given(POINTS)
def test_only_the_front_has_volume_and_no_point_takes_any_away(points: np.ndarray) -> None:
    whole = hypervolume(points, NAMES, REFERENCE).value
    assert np.isclose(hypervolume(points[on_front(points, NAMES)], NAMES, REFERENCE).value, whole)
    assert hypervolume(points[:-1], NAMES, REFERENCE).value <= whole + 1e-9
