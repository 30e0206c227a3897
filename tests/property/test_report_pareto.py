"""What holds of every set of points: order, orientation, units and duplicates change nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.report.attainment import attain
from kdbench.report.indicators import epsilon, hypervolume_share, igd_plus
from kdbench.report.pareto import Box, box, dominates, hypervolume, knee, on_front
from kdbench.report.replicates import replicates

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


def space(names: tuple[str, ...] = NAMES, scale: float = 1.0) -> Box:
    """The box of REFERENCE, with the second objective in another unit."""
    reference = {"top1_pct": 0.0, "nll": 11.0 * scale, "params": 11.0}
    found = box(names, reference, {})
    assert isinstance(found, Box)
    return found


def indicators(points: np.ndarray, against: np.ndarray, where: Box) -> list[float]:
    own, other = where.normalised(points), where.normalised(against)
    return [hypervolume_share(own), epsilon(own, other), igd_plus(own, other)]


@settings(deadline=None)
@given(POINTS)
def test_dominance_is_what_the_front_says(points: np.ndarray) -> None:
    assert (~dominates(points, NAMES).any(axis=0) == on_front(points, NAMES)).all()
    assert (dominates(np.stack([points, points]), NAMES)[1] == dominates(points, NAMES)).all()


@settings(deadline=None)
@given(POINTS, POINTS, st.randoms(use_true_random=False))
def test_order_duplicates_and_beaten_points_change_no_indicator(
    points: np.ndarray, against: np.ndarray, random: object
) -> None:
    expected = indicators(points, against, space())
    rows = [*range(len(points)), *range(len(points))]
    random.shuffle(rows)  # type: ignore[attr-defined]
    worse = points[:1] + np.array([[-1.0, 1.0, 1.0]])
    assert np.allclose(indicators(np.vstack([points[rows], worse]), against, space()), expected, atol=1e-9)


@settings(deadline=None)
@given(POINTS, POINTS)
def test_maximising_is_minimising_the_negative(points: np.ndarray, against: np.ndarray) -> None:
    # 100 - accuracy is an error in per cent: less is better, with the natural ideal at 0
    error = ("test_ece_pct", "test_nll", "params")
    turned = box(error, {"ece_pct": 100.0, "nll": 11.0, "params": 11.0}, {})
    assert isinstance(turned, Box)

    def turn(found: np.ndarray) -> np.ndarray:
        return np.abs(found - np.array([100.0, 0.0, 0.0]))

    expected = indicators(points, against, space())
    assert np.allclose(indicators(turn(points), turn(against), turned), expected, atol=1e-9)
    assert (on_front(turn(points), error) == on_front(points, NAMES)).all()


@settings(deadline=None)
@given(POINTS, POINTS, st.floats(1e-3, 1e3))
def test_the_unit_of_an_objective_changes_nothing(points: np.ndarray, against: np.ndarray, scale: float) -> None:
    units = np.array([1.0, scale, 1.0])
    expected = indicators(points, against, space())
    assert np.allclose(indicators(points * units, against * units, space(scale=scale)), expected, atol=1e-9)


@settings(deadline=None)
@given(POINTS.map(lambda points: points[:, :2]), st.integers(1, 64), st.randoms(use_true_random=False))
def test_the_knee_is_on_the_front_and_depends_on_neither_unit_nor_order(
    points: np.ndarray, scale: int, random: object
) -> None:
    names = NAMES[:2]
    place = knee(points, names)
    rows = list(range(len(points)))
    random.shuffle(rows)  # type: ignore[attr-defined]
    turned = knee((points * np.array([1.0, scale]))[rows], names)
    if place is None:
        assert turned is None
        return
    assert on_front(points, names)[place]
    assert turned is not None
    assert np.isclose(below_the_line(points)[rows[turned]], below_the_line(points)[place])


def below_the_line(points: np.ndarray) -> np.ndarray:
    """How far points lie on the good side of the line through the front's extremes; more is better in the first."""
    front = points[on_front(points, NAMES[:2])] * np.array([-1.0, 1.0])
    first, second = front[np.argmin(front[:, 0])], front[np.argmin(front[:, 1])]
    normal = np.array([first[1] - second[1], second[0] - first[0]])
    return np.asarray((first - points * np.array([-1.0, 1.0])) @ normal)


SETS = st.lists(POINTS.map(lambda points: points[:, 1:]), min_size=1, max_size=7)


@settings(deadline=None)
@given(SETS, st.data())
def test_a_surface_is_attained_in_as_many_repeats_as_it_says_and_nothing_better_is(
    sets: list[np.ndarray], data: st.DataObject
) -> None:
    level = data.draw(st.integers(1, len(sets)))
    surface = attain(sets, ("val_nll", "params"), level)

    def attained(point: np.ndarray) -> int:
        return sum(bool((found <= point).all(axis=1).any()) for found in sets)

    grid = np.array([[x, y] for x in range(11) for y in range(11)], dtype=float)
    for point in grid:
        assert (attained(point) >= level) == bool((surface <= point).all(axis=1).any())


SCORES = st.dictionaries(st.integers(0, 5), st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=30)
@given(st.lists(SCORES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_seeds_changes_no_replicate(samples: list[dict], random: object) -> None:
    rows = list(range(len(samples)))
    random.shuffle(rows)  # type: ignore[attr-defined]
    turned = [dict(reversed(samples[i].items())) for i in rows]
    first, second = replicates(samples, 200), replicates(turned, 200)
    for place, i in enumerate(rows):
        for level in range(10):
            found = [drawn.share(drawn.means[:, j, 0] >= level) for drawn, j in ((first, i), (second, place))]
            assert np.isclose(*found)
