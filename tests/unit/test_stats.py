"""Statistics over seeds: expected values are enumerated by hand or are scipy's own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from kdbench.report.stats import (
    aggregate,
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    mean,
    median,
    paired_difference,
    probability_of_improvement,
    standard_deviation,
    stratified_difference,
    stratified_improvement,
    stratified_interval,
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


def test_the_interquartile_mean_cuts_a_quarter_rounded_down_at_each_end() -> None:
    assert interquartile_mean([1.0, 2.0, 90.0]) == 31.0  # a quarter of three is none
    assert interquartile_mean([90.0, 1.0, 2.0, 3.0]) == 2.5  # one of four at each end
    assert interquartile_mean([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 99.0]) == 3.5  # two of eight
    assert np.isnan(interquartile_mean([]))


def test_median_and_standard_deviation_are_those_of_a_sample() -> None:
    assert median([1.0, 9.0, 2.0]) == 2.0 and median([1.0, 2.0, 3.0, 9.0]) == 2.5
    assert standard_deviation([1.0, 3.0]) == pytest.approx(2**0.5)  # squares 1 and 1 over 2 - 1
    assert np.isnan(median([])) and np.isnan(standard_deviation([5.0]))


def test_the_interval_of_the_median_holds_only_values_of_the_sample() -> None:
    # of four values (0, 0, 0, 4) the resampled median is 0, 2 or 4: 4 needs three fours or more, with probability
    # 4 (1/4)^3 (3/4) + (1/4)^4 = 13/256 = 5.1 % > 2.5 %, and the 97.5 % quantile is 4
    interval = bootstrap_interval([0.0, 0.0, 0.0, 4.0], statistic="median")
    assert (interval.low, interval.high) == (0.0, 4.0)


def test_the_intervals_of_median_and_iqm_are_scipys() -> None:
    def middle(x: np.ndarray, axis: int) -> np.ndarray:
        return scipy_stats.trim_mean(x, 0.25, axis=axis)

    for statistic, function in (("median", np.median), ("iqm", middle)):
        rng = np.random.default_rng(5)
        theirs = scipy_stats.bootstrap((TREATED,), function, method="percentile", rng=rng).confidence_interval
        ours = bootstrap_interval(TREATED, seed=5, statistic=statistic)
        assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_each_stratum_counts_the_same_in_the_mean_and_by_its_seeds_in_the_iqm() -> None:
    strata = [[1.0, 3.0], [10.0, 10.0, 10.0, 10.0, 16.0, 16.0]]
    assert aggregate(strata) == 7.0  # (2 + 12) / 2
    assert aggregate([*strata, [4.0]], "median") == 4.0  # of 2, 12 and 4
    assert aggregate(strata, "iqm") == 10.0  # 1, 3 and 16, 16 are cut
    assert np.isnan(aggregate([]))


def test_a_stratified_interval_knows_nothing_of_the_distance_between_strata() -> None:
    near, far = [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0], [81.0, 82.0, 83.0]]
    first, second = stratified_interval(near), stratified_interval(far)
    assert second.high - second.low == pytest.approx(first.high - first.low)
    assert first.high - first.low < 2.0  # narrower than that of one pair, whose range is 2


def test_a_stratified_interval_is_scipys_of_several_samples() -> None:
    def both(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return (np.mean(x, axis=axis) + np.mean(y, axis=axis)) / 2

    rng = np.random.default_rng(2)
    theirs = scipy_stats.bootstrap((TREATED, CONTROL), both, method="percentile", rng=rng).confidence_interval
    ours = stratified_interval([TREATED, CONTROL], seed=2)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_a_stratum_with_too_few_seeds_leaves_no_interval() -> None:
    why = "n = 2: an interval needs at least 3 seeds in every pair or data set"
    strata = [[1.0, 2.0, 3.0], [1.0, 2.0]]
    assert stratified_interval(strata).reason == why
    assert stratified_difference(strata, strata, paired=True).interval.reason == why
    assert stratified_difference(strata, strata, paired=False).interval.reason == why
    assert improvement_interval(strata, strata).reason == why
    assert stratified_interval([]).reason == "no pair or data set"


def test_strata_of_equal_values_have_an_interval_of_no_width() -> None:
    strata = [[0.1] * 3, [0.2] * 4]
    interval = stratified_interval(strata)
    assert interval.low == interval.high == aggregate(strata) == pytest.approx(0.15)


def test_a_stratified_difference_is_the_mean_of_those_within_the_strata() -> None:
    values, baselines = [[3.0, 5.0, 7.0], [20.0, 20.0, 20.0]], [[1.0, 3.0, 5.0], [10.0, 10.0, 10.0]]
    for paired in (True, False):
        gain = stratified_difference(values, baselines, paired)
        assert (gain.mean, gain.n, gain.n_baseline, gain.paired) == (6.0, 6, 6, paired)  # (2 + 10) / 2
        # within the first, 3 ties one and wins one, 5 wins two and ties one, 7 wins three; the second wins all
        assert gain.improvement == pytest.approx((7 / 9 + 1) / 2)
    paired_gain = stratified_difference(values, baselines, True)
    assert (paired_gain.interval.low, paired_gain.interval.high) == (6.0, 6.0)  # every pair of seeds gains the same
    assert stratified_difference(values, baselines, False).interval.low < 6.0


def test_strata_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="the same strata; got 2 and 1"):
        stratified_improvement([[1.0], [2.0]], [[1.0]])
    with pytest.raises(ValueError, match=r"equal lengths; got \[\(3, 2\)\]"):
        stratified_difference([[1.0, 2.0, 3.0]], [[1.0, 2.0]], paired=True)
    with pytest.raises(ValueError, match="at least one value"):
        aggregate([[1.0], []])


def test_the_interval_of_the_improvement_lies_around_it_within_0_and_1() -> None:
    strata = [[1.0, 2.0, 3.0], [4.0, 6.0, 8.0]], [[0.0, 2.0, 4.0], [5.0, 5.0, 5.0]]
    interval = improvement_interval(*strata)
    assert 0 <= interval.low < stratified_improvement(*strata) < interval.high <= 1
    certain = improvement_interval([[8.0, 9.0, 10.0]], [[1.0, 2.0, 3.0]])
    assert (certain.low, certain.high) == (1.0, 1.0)


def test_the_seed_controls_every_stratified_interval() -> None:
    strata = [TREATED, CONTROL], [CONTROL[:7], TREATED]
    for compute in (
        lambda seed: stratified_interval(strata[0], "iqm", seed),
        lambda seed: stratified_difference([TREATED], [CONTROL[:7]], True, seed).interval,
        lambda seed: stratified_difference(*strata, False, seed).interval,
        lambda seed: bootstrap_interval(TREATED, seed, "iqm"),
        lambda seed: improvement_interval(*strata, seed),
    ):
        assert compute(0) == compute(0)
        assert compute(0) != compute(1)
