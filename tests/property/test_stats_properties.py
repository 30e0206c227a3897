"""What holds of every sample: the order of seeds, the unit, and which method comes first change no result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.report import ranks, stats

ACCURACY = st.integers(0, 10000).map(lambda n: n / 100)
SAMPLE = st.lists(ACCURACY, min_size=3, max_size=8)
STRATA = st.lists(SAMPLE, min_size=1, max_size=4)
SIDES = st.lists(st.tuples(SAMPLE, SAMPLE), min_size=1, max_size=4)
TABLE = st.integers(3, 6).flatmap(
    lambda k: st.lists(st.lists(ACCURACY, min_size=k, max_size=k), min_size=5, max_size=9).map(np.array)
)
STATISTICS = st.sampled_from(["mean", "median", "iqm"])


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The properties hold for any number."""
    monkeypatch.setattr(stats, "RESAMPLES", 199)


fast = settings(deadline=None, max_examples=25)


@fast
@given(SAMPLE, st.randoms(use_true_random=False))
def test_the_order_of_seeds_changes_no_estimate(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for estimate in (stats.mean, stats.median, stats.interquartile_mean, stats.standard_deviation):
        assert np.isclose(estimate(shuffled), estimate(values))
    baseline = values[: len(values) // 2 + 1]
    assert stats.probability_of_improvement(shuffled, baseline) == stats.probability_of_improvement(values, baseline)


@fast
@given(STRATA, STATISTICS, st.randoms(use_true_random=False))
def test_the_order_of_strata_changes_no_aggregate(strata: list[list[float]], statistic: str, random: object) -> None:
    shuffled = list(strata)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert np.isclose(stats.aggregate(shuffled, statistic), stats.aggregate(strata, statistic))


@fast
@given(SAMPLE, SAMPLE, st.data())
def test_pairs_of_seeds_may_come_in_any_order(values: list[float], baseline: list[float], data: st.DataObject) -> None:
    n = min(len(values), len(baseline))
    order = data.draw(st.permutations(range(n)))
    first = stats.paired_difference(values[:n], baseline[:n])
    second = stats.paired_difference([values[i] for i in order], [baseline[i] for i in order])
    assert np.isclose(first.mean, second.mean) and first.improvement == second.improvement


@fast
@given(STRATA, STATISTICS, st.floats(-50, 50), st.floats(0.1, 10))
def test_a_shift_and_a_scale_of_the_values_are_those_of_estimate_and_interval(
    strata: list[list[float]], statistic: str, shift: float, scale: float
) -> None:
    moved = [[shift + scale * value for value in sample] for sample in strata]
    assert np.isclose(stats.aggregate(moved, statistic), shift + scale * stats.aggregate(strata, statistic))
    ours, theirs = stats.stratified_interval(moved, statistic), stats.stratified_interval(strata, statistic)
    assert np.allclose([ours.low, ours.high], [shift + scale * theirs.low, shift + scale * theirs.high])
    one, other = (stats.bootstrap_interval(s[0], statistic=statistic) for s in (moved, strata))
    assert np.allclose([one.low, one.high], [shift + scale * other.low, shift + scale * other.high])


@fast
@given(SIDES, st.floats(-50, 50))
def test_a_difference_is_the_negative_of_its_mirror_and_ignores_a_shift_of_both(
    sides: list[tuple[list[float], list[float]]], shift: float
) -> None:
    first, second = [a for a, _ in sides], [b for _, b in sides]
    gain, mirror = (stats.stratified_difference(*pair, paired=False) for pair in ((first, second), (second, first)))
    assert np.isclose(gain.mean, -mirror.mean, atol=1e-9)
    moved = [[[shift + v for v in sample] for sample in side] for side in (first, second)]
    assert np.isclose(stats.stratified_difference(*moved, paired=False).mean, gain.mean, atol=1e-9)


@fast
@given(SIDES)
def test_the_probabilities_of_improvement_of_two_methods_add_to_one(
    sides: list[tuple[list[float], list[float]]],
) -> None:
    first, second = [a for a, _ in sides], [b for _, b in sides]
    there, back = stats.stratified_improvement(first, second), stats.stratified_improvement(second, first)
    assert np.isclose(there + back, 1.0)
    interval = stats.improvement_interval(first, second)
    assert 0.0 <= interval.low <= interval.high <= 1.0


@fast
@given(SAMPLE, SAMPLE, st.sampled_from(["mean", "iqm"]))
def test_one_stratum_is_the_plain_statistic(values: list[float], baseline: list[float], statistic: str) -> None:
    plain = {"mean": stats.mean, "iqm": stats.interquartile_mean}[statistic]
    assert np.isclose(stats.aggregate([values], statistic), plain(values))
    ours = stats.stratified_interval([values], statistic)
    theirs = stats.bootstrap_interval(values, statistic=statistic)
    assert np.allclose([ours.low, ours.high], [theirs.low, theirs.high], rtol=1e-12)
    gain, single = stats.stratified_difference([values], [baseline], False), stats.unpaired_difference(values, baseline)
    assert np.allclose([gain.mean, gain.interval.low, gain.interval.high],
                       [single.mean, single.interval.low, single.interval.high], atol=1e-9)  # fmt: skip
    assert (gain.improvement, gain.n, gain.n_baseline) == (single.improvement, single.n, single.n_baseline)


@fast
@given(STRATA, STATISTICS)
def test_an_interval_lies_within_the_range_of_the_values(strata: list[list[float]], statistic: str) -> None:
    interval = stats.stratified_interval(strata, statistic)
    everything = [value for sample in strata for value in sample]
    assert min(everything) - 1e-9 <= interval.low <= interval.high <= max(everything) + 1e-9


@fast
@given(TABLE, st.randoms(use_true_random=False))
def test_the_order_of_blocks_and_of_methods_changes_no_rank_and_no_test(table: np.ndarray, random: object) -> None:
    blocks, methods = list(range(len(table))), list(range(table.shape[1]))
    random.shuffle(blocks)  # type: ignore[attr-defined]
    random.shuffle(methods)  # type: ignore[attr-defined]
    shuffled = table[blocks][:, methods]
    assert np.allclose(ranks.mean_ranks(shuffled), ranks.mean_ranks(table)[methods])
    test, again = ranks.friedman(table), ranks.friedman(shuffled)
    assert isinstance(test, ranks.Refusal) == isinstance(again, ranks.Refusal)
    if isinstance(test, ranks.Friedman) and isinstance(again, ranks.Friedman):
        assert np.allclose([test.chi_square, test.f_p], [again.chi_square, again.f_p])


@fast
@given(TABLE)
def test_ranks_see_the_order_alone_and_always_add_up(table: np.ndarray) -> None:
    k = table.shape[1]
    means = ranks.mean_ranks(table)
    assert np.isclose(means.sum(), k * (k + 1) / 2)
    assert np.allclose(
        ranks.mean_ranks(table * 2 + np.arange(len(table))[:, None]), means
    )  # blocks may differ in level


@fast
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_only_raises_p(p: list[float]) -> None:
    corrected = ranks.holm(p)
    assert (corrected >= np.array(p)).all() and (corrected <= np.minimum(1.0, np.array(p) * len(p)) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


@fast
@given(st.lists(st.floats(1, 20), min_size=2, max_size=12), st.floats(0.1, 10))
def test_two_methods_share_a_clique_exactly_if_they_lie_within_the_difference(
    means: list[float], difference: float
) -> None:
    groups = ranks.cliques(means, difference)
    for i in range(len(means)):
        for j in range(i):
            gap = abs(means[i] - means[j])
            if abs(gap - difference) > 1e-6:
                assert any({i, j} <= set(group) for group in groups) == (gap < difference)
    assert not any(set(a) < set(b) for a in groups for b in groups)
