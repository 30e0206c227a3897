"""Ranks and their tests: Demsar's worked examples (JMLR 7, 2006), sums by hand, and refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from kdbench.report.ranks import (
    Friedman,
    Refusal,
    against,
    cliques,
    critical_difference,
    friedman,
    holm,
    iman_davenport,
    mean_ranks,
    out_of_reach,
    pairwise,
    refusal,
    signed_rank,
    smallest_p,
)

# Demsar 2006, table 6: AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets. On voting the last two are both
# printed as 0.975 but ranked 2 and 3, so they were rounded; 0.9749 gives the printed ranks.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.975, 0.9749], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip
# Table 5a: critical values of Nemenyi's test for 2 to 10 classifiers
NEMENYI = {
    0.05: [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164],
    0.10: [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920],
}


@pytest.fixture
def expected_iris() -> list[float]:
    return [1.0, 2.5, 4.0, 2.5]  # 0.936, 0.931, 0.916, 0.931 as the paper ranks them


def test_ranks_are_those_of_demsars_table_6(expected_iris: list[float]) -> None:
    assert mean_ranks(DEMSAR[5:6]).tolist() == expected_iris
    assert mean_ranks(DEMSAR[9:10]).tolist() == [2.5] * 4
    assert mean_ranks(DEMSAR) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)  # as printed


def test_friedmans_chi_square_is_demsars_and_corrected_for_his_ties() -> None:
    test = friedman(DEMSAR)
    assert isinstance(test, Friedman) and (test.blocks, test.methods) == (14, 4)
    # he has no correction for ties. Four rows have them: t^3 - t is 6 for a pair and 60 for the four of mushroom
    correction = 1 - (6 + 6 + 60 + 6) / (14 * 4 * (4**2 - 1))
    assert test.chi_square * correction == pytest.approx(9.28, abs=0.005)
    assert test.chi_square_p == pytest.approx(scipy_stats.chi2.sf(test.chi_square, 3), rel=1e-12)


def test_iman_and_davenports_f_is_demsars() -> None:
    f, p = iman_davenport(9.28, blocks=14, methods=4)
    assert f == pytest.approx(3.69, abs=0.005)
    assert p == pytest.approx(scipy_stats.f.sf(f, 3, 39), rel=1e-12)
    assert scipy_stats.f.isf(0.05, 3, 39) == pytest.approx(2.85, abs=0.005)  # his critical value: he rejects
    test = friedman(DEMSAR)
    assert isinstance(test, Friedman) and (test.f, test.f_p) == iman_davenport(test.chi_square, 14, 4)


def test_without_ties_friedman_is_the_formula_of_demsars_section_3_2_2() -> None:
    table = np.random.default_rng(0).normal(size=(9, 5))
    means = mean_ranks(table)
    expected = 12 * 9 / (5 * 6) * ((means**2).sum() - 5 * 6**2 / 4)
    test = friedman(table)
    assert isinstance(test, Friedman) and test.chi_square == pytest.approx(expected, rel=1e-12)


def test_where_all_blocks_rank_alike_p_is_the_chance_of_that() -> None:
    test = friedman(np.tile([3.0, 2.0, 1.0], (6, 1)) + np.arange(6)[:, None])
    assert isinstance(test, Friedman) and test.chi_square == pytest.approx(12.0)  # N (k - 1)
    assert test.f == math.inf and test.f_p == pytest.approx(6.0**-5)


def test_the_critical_differences_are_demsars() -> None:
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(4, 14, level=0.10) == pytest.approx(1.12, abs=0.005)
    for level, row in NEMENYI.items():
        for methods, q in enumerate(row, 2):
            # two of the printed values are cut instead of rounded
            assert critical_difference(methods, 6, level) * 6 / math.sqrt(methods * (methods + 1)) == pytest.approx(
                q, abs=0.001
            )


def test_wilcoxon_is_demsars_example_with_two_ties() -> None:
    # section 3.1.3, table 2: C4.5 with and without m; R+ = 93, R- = 12, z = -2.54
    statistic, p = signed_rank(DEMSAR[:, 1], DEMSAR[:, 0])
    assert statistic == 12.0
    assert 2 * scipy_stats.norm.cdf(-2.545) < p < 2 * scipy_stats.norm.cdf(-2.535)
    assert signed_rank(DEMSAR[:, 0], DEMSAR[:, 1]) == (statistic, p)


def test_wilcoxons_p_is_scipys_exact_one_without_ties() -> None:
    rng = np.random.default_rng(1)
    for n in (5, 8, 13, 14, 20):
        values, baseline = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
        theirs = scipy_stats.wilcoxon(values, baseline, method="exact")
        assert signed_rank(values, baseline) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)


def test_wilcoxons_p_with_ties_counts_all_signs() -> None:
    gaps = np.array([0.0, 1.0, 1.0, -1.0, 2.0, 3.0])  # ranks 1, 3, 3, 3, 5, 6; zeros are shared
    totals = [sum(s * r for s, r in zip(signs, (3, 3, 3, 5, 6), strict=True))
              for signs in itertools.product((-1, 1), repeat=5)]  # fmt: skip
    found = 3 + 3 - 3 + 5 + 6
    expected = 2 * sum(total >= found for total in totals) / len(totals)
    assert signed_rank(gaps, np.zeros(6)) == (3.5, pytest.approx(expected))


def test_differences_that_only_rounding_makes_are_ties() -> None:
    a, b = np.array([0.1 + 0.2, 0.3, 0.5, 0.6, 0.7]), np.array([0.3, 0.1 + 0.2, 0.5, 0.6, 0.7])
    assert signed_rank(a, b)[1] == 1.0
    assert mean_ranks(np.array([[0.1 + 0.2, 0.3, 0.2]])).tolist() == [1.5, 1.5, 3.0]


def test_holms_steps_are_demsars_example() -> None:
    # section 3.2.2: p = 0.016, 0.019, 0.607 against C4.5; 0.016 < 0.017 and 0.019 < 0.025 are rejected at 5 %
    corrected = holm([0.019, 0.607, 0.016])
    assert corrected == pytest.approx([0.048, 0.607, 0.048])  # 2 * 0.019 = 0.038 is below the step before it
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0] and holm([]).size == 0


def test_every_two_methods_are_compared_once_and_corrected_together() -> None:
    table = np.column_stack([np.arange(8.0), np.arange(8.0) + 1, np.arange(8.0) + np.array([3, 2, 3, 2, 3, 2, 3, -9])])
    found = pairwise(table)
    assert [(c.first, c.second) for c in found] == [(0, 1), (0, 2), (1, 2)]
    assert [c.better for c in found] == [0.0, 1.0, 1.0]
    assert found[0].p == 2**-7 and found[0].p_holm == 3 * 2**-7
    assert found[0].median == -1.0
    assert [(c.first, c.second) for c in against(table, 1)] == [(0, 1), (2, 1)]
    assert against(table, 1)[0].p_holm == 2 * 2**-7


def test_the_smallest_p_is_one_sign_in_all_and_its_mirror() -> None:
    for blocks in range(2, 12):
        assert signed_rank(np.arange(1.0, blocks + 1), np.zeros(blocks))[1] == pytest.approx(smallest_p(blocks))


def test_what_cannot_become_significant_is_said_with_the_sum() -> None:
    reason = out_of_reach(5, 1)
    assert reason and reason.reason == (
        "with 5 pairs or data sets the smallest p of Wilcoxon's signed-rank test is 2^(1 - 5) = 0.062, and Holm's "
        "correction for 1 comparisons makes that 0.062: nothing can be significant at 5 %."
    )
    assert out_of_reach(6, 1) is None
    assert out_of_reach(12, 780) and out_of_reach(12, 39) is None  # 40 methods on 12 pairs


def test_friedman_is_refused_with_too_few_methods_or_blocks() -> None:
    assert refusal(12, 2) == Refusal("Friedman's test compares at least 3 methods; 2 can be compared here.")
    assert refusal(4, 3) == Refusal(
        "Friedman's test needs at least 5 pairs or data sets, and seeds do not count as such; there are 4."
    )
    assert refusal(5, 3) is None
    assert friedman(np.ones((4, 3)) * [1, 2, 3]) == refusal(4, 3)
    assert isinstance(friedman(np.ones((8, 3))), Refusal)


def test_at_the_smallest_number_of_blocks_the_f_test_keeps_its_level() -> None:
    def rejections(blocks: int, methods: int) -> float:
        rng = np.random.default_rng(0)
        ranked = rng.permuted(np.tile(np.arange(1.0, methods + 1), (2000, blocks, 1)), axis=2)
        means = ranked.mean(axis=1)
        chi = 12 * blocks / (methods * (methods + 1)) * ((means**2).sum(axis=1) - methods * (methods + 1) ** 2 / 4)
        values, counts = np.unique(chi.round(9), return_counts=True)
        low = np.array([iman_davenport(value, blocks, methods)[1] <= 0.05 for value in values])
        return float(counts[low].sum() / counts.sum())

    assert rejections(5, 3) < 0.06 and rejections(5, 8) < 0.07
    assert rejections(4, 3) > 0.06  # and this is why four are too few
    # at three blocks of three methods agreement of all three has a chance of 1/36 = 2.8 %: the exact p of it is used
    assert rejections(3, 3) > 0.1


def test_cliques_are_the_largest_groups_within_the_critical_difference() -> None:
    # Demsar 2006, section 3.2.2: at 10 % (1.12) C4.5 differs from both with m; C4.5+cf cannot be placed
    means = mean_ranks(DEMSAR)
    assert cliques(means, critical_difference(4, 14, level=0.10)) == [(3, 1, 2), (2, 0)]
    assert cliques(means, 0.5) == [(3, 1), (2, 0)]
    assert cliques([1.0, 2.0, 3.0], 1.0) == []  # at least as far apart as the critical difference: different
    assert cliques([1.0, 2.0, 3.0], 5.0) == [(0, 1, 2)]
    assert cliques([2.0, 2.0], 0.1) == [(0, 1)]


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 3)), np.array([[1.0, math.nan, 2.0]])])
def test_a_table_without_finite_scores_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(blocks, methods\)"):
        mean_ranks(bad)


def test_rows_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equal length"):
        signed_rank([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least two"):
        signed_rank([1.0], [2.0])
