"""Fronts and hypervolumes of small examples that can be drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdbench.errors import KdbenchError
from kdbench.report.pareto import Hypervolume, hypervolume, maximise, objectives, on_front

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
