"""Fronts, knees, indicators and attainment of small examples that can be drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdbench.errors import KdbenchError
from kdbench.report.attainment import attain
from kdbench.report.indicators import epsilon, hypervolume_share, igd_plus
from kdbench.report.pareto import (
    Box,
    Hypervolume,
    box,
    dominates,
    hypervolume,
    knee,
    maximise,
    objectives,
    on_front,
)

TEST = ("test_top1_pct", "params")
REFERENCE = {"top1_pct": 80, "params": 1e6}


def test_directions_are_those_of_the_metrics() -> None:
    assert maximise(["test_top1_pct", "val_nll", "params", "latency_b1_p50_ms"]) == [True, False, False, False]


def test_the_front_keeps_what_nothing_beats() -> None:
    points = np.array([[93.0, 3e5], [92.0, 1e5], [91.0, 2e5], [93.0, 4e5]])
    assert on_front(points, TEST).tolist() == [True, True, False, False]


def test_equal_points_are_on_the_front_together() -> None:
    points = np.array([[93.0, 3e5], [93.0, 3e5], [92.0, 3e5]])
    assert on_front(points, TEST).tolist() == [True, True, False]


def test_a_point_with_a_missing_value_is_never_on_the_front() -> None:
    points = np.array([[99.0, np.nan], [92.0, 1e5]])
    assert on_front(points, TEST).tolist() == [False, True]
    assert on_front(np.empty((0, 2)), TEST).tolist() == []


def test_validation_and_test_are_never_mixed() -> None:
    with pytest.raises(KdbenchError, match="never mixed"):
        objectives(["val_top1_pct", "test_nll"])


@pytest.mark.parametrize("names", [["test_top1_pct"], ["params", "params"]])
def test_a_front_of_one_objective_is_refused(names: list[str]) -> None:
    with pytest.raises(KdbenchError, match="two different objectives"):
        objectives(names)


def test_an_unknown_objective_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(KdbenchError, match=r"'val_speed' has no better direction.*top1_pct"):
        on_front(np.zeros((1, 2)), ["val_top1_pct", "val_speed"])


def test_the_hypervolume_of_one_point_is_its_rectangle() -> None:
    # (90 - 80) x (1e6 - 5e5) of (100 - 80) x (1e6 - 0): a quarter
    assert hypervolume(np.array([[90.0, 5e5]]), TEST, REFERENCE) == Hypervolume(5e6, 0.25)


def test_the_hypervolume_of_two_points_is_the_union_of_their_rectangles() -> None:
    # 10 x 5e5 and 5 x 8e5 overlap in 5 x 5e5
    volume = hypervolume(np.array([[90.0, 5e5], [85.0, 2e5]]), TEST, REFERENCE)
    assert volume.value == pytest.approx(5e6 + 4e6 - 2.5e6)


def test_points_beyond_the_reference_add_nothing() -> None:
    inside = np.array([[90.0, 5e5]])
    beyond = np.array([[90.0, 5e5], [79.0, 1e4], [99.0, 2e6], [np.nan, 1.0]])
    assert hypervolume(beyond, TEST, REFERENCE) == hypervolume(inside, TEST, REFERENCE)
    assert hypervolume(np.array([[79.0, 1e4]]), TEST, REFERENCE) == Hypervolume(0.0, 0.0)


@pytest.mark.parametrize(("reference", "lacks"), [(None, "top1_pct, params"), ({"top1_pct": 80}, "params")])
def test_without_a_reference_point_the_hypervolume_says_so(reference: dict[str, float] | None, lacks: str) -> None:
    volume = hypervolume(np.array([[90.0, 5e5]]), TEST, reference)
    assert volume.value is None
    assert volume.reason == f"not computed: the study's pareto.reference lacks {lacks}"


def test_a_studys_own_ideal_narrows_the_box_and_leaves_the_volume() -> None:
    # the same rectangle of 5e6, of (90 - 80) x (1e6 - 5e5)
    volume = hypervolume(np.array([[90.0, 5e5]]), TEST, REFERENCE, {"top1_pct": 90, "params": 5e5})
    assert volume == Hypervolume(5e6, 1.0)


def test_the_box_turns_the_reference_into_1_and_the_ideal_into_0() -> None:
    space = box(TEST, REFERENCE, {"params": 2e5})
    assert isinstance(space, Box)
    points = np.array([[80.0, 1e6], [100.0, 2e5], [95.0, 6e5], [70.0, 0.0]])
    assert space.normalised(points) == pytest.approx(np.array([[1, 1], [0, 0], [0.25, 0.5], [1.5, -0.25]]), abs=1e-9)
    assert space.normalised(np.empty((0, 2))).shape == (0, 2)


@pytest.mark.parametrize(
    ("reference", "ideal", "reason"),
    [
        ({"params": 1e6}, {}, "the study's pareto.reference lacks top1_pct"),
        ({"top1_pct": 100, "params": 1e6}, {}, "pareto.reference is no worse than the ideal"),
    ],
)
def test_without_a_box_the_reason_is_given(reference: dict[str, float], ideal: dict[str, float], reason: str) -> None:
    assert box(TEST, reference, ideal) == reason


def test_dominance_is_nowhere_worse_and_somewhere_better() -> None:
    points = np.array([[93.0, 3e5], [92.0, 3e5], [93.0, 3e5], [94.0, 4e5]])
    assert dominates(points, TEST).astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_the_knee_is_farthest_from_the_line_through_the_extremes() -> None:
    # the line x + y = 10; by 6, 7 and 0.9 below it
    points = np.array([[0.0, 10.0], [1.0, 3.0], [2.0, 1.0], [9.0, 0.1], [10.0, 0.0], [20.0, 20.0]])
    assert knee(points, ("test_nll", "params")) == 2


def test_a_front_that_bends_away_from_the_ideal_has_no_knee() -> None:
    assert knee(np.array([[0.0, 10.0], [6.0, 6.0], [10.0, 0.0]]), ("test_nll", "params")) is None
    assert knee(np.array([[0.0, 10.0], [5.0, 5.0], [10.0, 0.0]]), ("test_nll", "params")) is None


@pytest.mark.parametrize("points", [[], [[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]])
def test_two_points_or_fewer_have_no_knee(points: list[list[float]]) -> None:
    assert knee(np.array(points).reshape(-1, 2), ("test_nll", "params")) is None


def test_the_knee_of_three_objectives_is_below_the_plane_through_their_extremes() -> None:
    # the plane x + y + z = 2; 1.5 is below it, 2.1 is beyond
    extremes = [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    names = ("test_nll", "test_ece_pct", "params")
    assert knee(np.array([*extremes, [0.5, 0.5, 0.5]]), names) == 3
    assert knee(np.array([*extremes, [0.7, 0.7, 0.7]]), names) is None
    assert knee(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.4, 0.0, 0.4]]), names) is None


# moocore 0.3.2, examples of `epsilon_additive` and `igd_plus` in its documentation
POINTS = np.array([[3.5, 5.5], [3.6, 4.1], [4.1, 3.2], [5.5, 1.5]])
AGAINST = np.array([[1.0, 6.0], [2.0, 5.0], [3.0, 4.0], [4.0, 3.0], [5.0, 2.0], [6.0, 1.0]])


def test_the_indicators_agree_with_moocores_worked_examples() -> None:
    assert epsilon(POINTS, AGAINST) == pytest.approx(2.5, abs=1e-9)
    assert igd_plus(POINTS, AGAINST) == pytest.approx(0.9855036468106652, abs=1e-9)


def test_igd_plus_agrees_with_example_4_of_its_paper() -> None:
    # Ishibuchi et al. 2015 as quoted by moocore: the better set A has the smaller distance
    against = np.array([[10.0, 0], [6, 1], [2, 2], [1, 6], [0, 10]])
    first, second = np.array([[4.0, 2], [3, 3], [2, 4]]), np.array([[8.0, 2], [4, 4], [2, 8]])
    assert igd_plus(first, against) == pytest.approx(1.482842712474619, abs=1e-9)
    assert igd_plus(second, against) == pytest.approx(2.260112615949154, abs=1e-9)


def test_the_indicators_of_one_point_by_hand() -> None:
    point, against = np.array([[0.2, 0.6]]), np.array([[0.1, 0.5], [0.4, 0.3]])
    assert hypervolume_share(point) == pytest.approx(0.8 * 0.4, abs=1e-9)
    assert hypervolume_share(np.vstack([point, [[0.5, 0.3]]])) == pytest.approx(0.32 + 0.35 - 0.20, abs=1e-9)
    assert hypervolume_share(np.array([[0.2, 1.1]])) == 0.0
    assert epsilon(point, against) == pytest.approx(0.3, abs=1e-9)  # of max(0.1, 0.1) and max(-0.2, 0.3)
    assert igd_plus(point, against) == pytest.approx((math.sqrt(0.02) + 0.3) / 2, abs=1e-9)


def test_a_surface_holds_what_enough_repeats_attained() -> None:
    # repeat 0 attains (1, 3) and (3, 1), repeat 1 (2, 2): one of them attains three corners, both attain two
    sets = [np.array([[1.0, 3.0], [3.0, 1.0]]), np.array([[2.0, 2.0]])]
    names = ("val_nll", "params")
    assert sorted(attain(sets, names, 1).tolist()) == [[1, 3], [2, 2], [3, 1]]
    assert sorted(attain(sets, names, 2).tolist()) == [[2, 3], [3, 2]]


def test_a_repeat_in_which_nothing_finished_attains_nothing() -> None:
    sets = [np.array([[1.0, 3.0]]), np.empty((0, 2)), np.array([[2.0, 2.0]])]
    assert attain(sets, ("val_nll", "params"), 2).tolist() == [[2, 3]]
    assert attain(sets, ("val_nll", "params"), 3).tolist() == []


def test_more_accuracy_is_attained_from_below() -> None:
    sets = [np.array([[90.0, 1e5]]), np.array([[92.0, 2e5]])]
    assert attain(sets, ("val_top1_pct", "params"), 2).tolist() == [[90, 2e5]]
