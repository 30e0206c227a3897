"""Statistics over seeds: expected values are enumerated by hand or are scipy's own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from kdbench.report.stats import (
    bootstrap_interval,
    mean,
    paired_difference,
    probability_of_improvement,
    unpaired_difference,
)

# Efron and Tibshirani 1993, table 2.1: survival of mice in days
TREATED = [94.0, 197, 16, 38, 99, 141, 23]
CONTROL = [52.0, 104, 146, 10, 51, 30, 40, 27, 46]


def test_the_mean_of_the_mouse_data_is_the_books() -> None:
    assert mean(TREATED) == pytest.approx(86.86, abs=0.005)
    assert mean(CONTROL) == pytest.approx(56.22, abs=0.005)
    assert np.isnan(mean([]))


def test_of_three_seeds_the_interval_is_their_range() -> None:
    # all three draws equal the smallest with probability 1/27 = 3.7 % > 2.5 %, so the quantile is the smallest itself
    interval = bootstrap_interval([90.0, 91.0, 93.0])
    assert (interval.low, interval.high) == (90.0, 93.0)
    assert interval.reason is None


def test_the_interval_is_the_binomial_quantile_for_zeros_and_a_four() -> None:
    # fours in four draws are Binomial(4, 1/4); its 2.5 % and 97.5 % quantiles are 0 and 3, and k fours have mean k
    interval = bootstrap_interval([0.0, 0.0, 0.0, 4.0])
    assert (interval.low, interval.high) == (0.0, 3.0)


def test_the_interval_is_scipys_percentile_interval() -> None:
    rng = np.random.default_rng(3)
    theirs = scipy_stats.bootstrap((TREATED,), np.mean, method="percentile", rng=rng).confidence_interval
    ours = bootstrap_interval(TREATED, seed=3)
    assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_the_seed_controls_the_bootstrap_and_the_global_state_does_not() -> None:
    np.random.seed(1)
    first = bootstrap_interval(TREATED, seed=0)
    np.random.seed(2)
    state = np.random.get_state()[1].copy()
    assert bootstrap_interval(TREATED, seed=0) == first
    assert (np.random.get_state()[1] == state).all()
    assert bootstrap_interval(TREATED, seed=1) != first
    assert paired_difference(TREATED, CONTROL[:7], seed=0) != paired_difference(TREATED, CONTROL[:7], seed=1)
    assert unpaired_difference(TREATED, CONTROL, seed=0) != unpaired_difference(TREATED, CONTROL, seed=1)


@pytest.mark.parametrize("values", [[], [90.0], [90.0, 91.0]])
def test_fewer_than_three_seeds_have_no_interval_and_the_reason_says_how_many(values: list[float]) -> None:
    interval = bootstrap_interval(values)
    assert (interval.low, interval.high) == (None, None)
    assert interval.reason == f"n = {len(values)}: an interval needs at least 3 seeds"


def test_equal_values_have_an_interval_of_no_width() -> None:
    interval = bootstrap_interval([92.5] * 5)
    assert (interval.low, interval.high) == (92.5, 92.5)


def test_a_paired_difference_is_the_mean_over_pairs_with_its_range_at_three() -> None:
    gain = paired_difference([91.0, 93.0, 95.0], [90.0, 91.0, 92.0])
    assert (gain.mean, gain.interval.low, gain.interval.high) == (2.0, 1.0, 3.0)
    assert gain.paired and (gain.n, gain.n_baseline) == (3, 3)


def test_pairing_removes_what_the_seeds_have_in_common() -> None:
    shared = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    values, baseline = 92 + shared, 91.5 + shared + [0.02, -0.02, 0.0, 0.02, -0.02]
    paired, unpaired = paired_difference(values, baseline), unpaired_difference(values, baseline)
    assert paired.mean == pytest.approx(unpaired.mean) == pytest.approx(0.5)
    assert paired.interval.low > 0.45
    assert unpaired.interval.low < 0 < unpaired.interval.high


def test_an_unpaired_difference_is_scipys_for_two_samples() -> None:
    def gap(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    rng = np.random.default_rng(0)
    theirs = scipy_stats.bootstrap((TREATED, CONTROL), gap, method="percentile", rng=rng).confidence_interval
    ours = unpaired_difference(TREATED, CONTROL)
    assert ours.mean == pytest.approx(30.63, abs=0.005)  # the book, section 2.1
    assert (ours.interval.low, ours.interval.high) == (theirs.low, theirs.high)
    assert not ours.paired and (ours.n, ours.n_baseline) == (7, 9)


def test_an_unpaired_difference_with_two_seeds_on_one_side_has_no_interval() -> None:
    gain = unpaired_difference([91.0, 92.0], [90.0, 90.5, 91.0])
    assert gain.mean == 1.0
    assert gain.interval.reason == "n = 2: an interval needs at least 3 seeds on both sides"


def test_an_unpaired_difference_of_constants_has_no_width() -> None:
    gain = unpaired_difference([92.0] * 3, [91.0] * 4)
    assert (gain.interval.low, gain.interval.high) == (1.0, 1.0)


def test_the_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    # 1 beats 0 and ties 1; 2 beats 0, 1 and ties 2; 3 beats 0, 1, 2: (1.5 + 2.5 + 3) / 12
    assert probability_of_improvement([1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 5.0]) == pytest.approx(7 / 12)
    assert probability_of_improvement([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert probability_of_improvement([1.0, 1.0], [1.0, 1.0]) == 0.5
    assert np.isnan(probability_of_improvement([], [1.0]))


def test_a_missing_value_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval([90.0, float("nan"), 91.0])


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])
