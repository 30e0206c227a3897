"""Our statistics against rliable, statsmodels and autorank, which other papers use, and against scipy's integrals."""

from __future__ import annotations

import functools
import importlib
import logging
import math
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from autorank import autorank
from autorank._util import get_sorted_rank_groups
from rliable import metrics
from scipy import integrate
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from kdbench.report import ranks, stats

RUNS, TASKS = 5, 6


@pytest.fixture(scope="module")
def library() -> ModuleType:
    """rliable.library, which needs arch < 8, which decorates functions as pandas < 3 wants it."""
    import pandas.util._decorators as decorators

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decorators, "deprecate_kwarg", functools.partial(decorators.deprecate_kwarg, FutureWarning))
        return importlib.import_module("rliable.library")


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    """Two methods, (runs, tasks): accuracies to two decimals, so that there are ties."""
    rng = np.random.default_rng(0)
    level = rng.uniform(60, 95, TASKS)
    first, second = (np.round(level + rng.normal(gain, 0.4, (RUNS, TASKS)), 1) for gain in (0.2, 0.0))
    return first, second


@pytest.mark.parametrize("statistic", ["mean", "median", "iqm"])
def test_an_aggregate_is_rliables(scores: tuple[np.ndarray, np.ndarray], statistic: stats.Statistic) -> None:
    theirs = getattr(metrics, f"aggregate_{statistic}")
    assert stats.aggregate(scores[0].T, statistic) == pytest.approx(theirs(scores[0]), rel=1e-12)


def test_of_rliables_own_resamples_our_aggregates_are_the_same(
    scores: tuple[np.ndarray, np.ndarray], library: ModuleType
) -> None:
    np.random.seed(0)  # rliable draws its indices from numpy's global state, whatever generator it is given
    for (resample,), _ in library.StratifiedBootstrap(scores[0]).bootstrap(50):
        for statistic in ("mean", "median", "iqm"):
            theirs = getattr(metrics, f"aggregate_{statistic}")(resample)
            assert stats.aggregate(resample.T, statistic) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_a_stratified_interval_is_rliables_but_for_the_draw(
    scores: tuple[np.ndarray, np.ndarray], library: ModuleType, statistic: stats.Statistic
) -> None:
    logging.getLogger("absl").setLevel(logging.WARNING)
    np.random.seed(0)
    theirs = getattr(metrics, f"aggregate_{statistic}")
    _, intervals = library.get_interval_estimates({"a": scores[0]}, lambda x: np.array([theirs(x)]), reps=2000)
    low, high = intervals["a"].ravel()
    ours = stats.stratified_interval(scores[0].T, statistic)
    # theirs of 2,000 draws: the standard error of a quantile at 2.5 % is 0.06 deviations, 1.5 % of the width
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_the_probability_of_improvement_is_rliables(scores: tuple[np.ndarray, np.ndarray]) -> None:
    ours = stats.stratified_improvement(scores[0].T, scores[1].T)
    assert ours == pytest.approx(metrics.probability_of_improvement(*scores), rel=1e-12)
    unequal = stats.stratified_improvement(scores[0].T, scores[1][:3].T)
    assert unequal == pytest.approx(metrics.probability_of_improvement(scores[0], scores[1][:3]), rel=1e-12)


def test_of_rliables_own_resamples_our_improvement_is_the_same(
    scores: tuple[np.ndarray, np.ndarray], library: ModuleType
) -> None:
    np.random.seed(0)
    for resample, _ in library.StratifiedIndependentBootstrap(*scores).bootstrap(20):
        ours = float(stats._mean_improvement(*resample[0].T, *resample[1].T))
        assert ours == pytest.approx(metrics.probability_of_improvement(*resample), rel=1e-12)


def test_holms_correction_is_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 45):
        p = np.round(rng.uniform(0, 1, size) ** 3, 2)  # rounded: ties
        assert ranks.holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


@pytest.fixture(scope="module")
def ranked() -> tuple[np.ndarray, object]:
    """Scores (blocks, methods) with ties, and what autorank makes of them."""
    rng = np.random.default_rng(3)
    table = np.round(rng.normal(70, 1, (15, 6)) + np.arange(6) / 2, 0)
    names = [f"m{j}" for j in range(6)]
    theirs = autorank(pd.DataFrame(table, columns=names), order="descending", force_mode="nonparametric")
    return table, theirs


def test_mean_ranks_and_friedmans_p_are_autoranks(ranked: tuple[np.ndarray, object]) -> None:
    table, theirs = ranked
    means = theirs.rankdf["meanrank"]
    ours = dict(zip((f"m{j}" for j in range(6)), ranks.mean_ranks(table), strict=True))
    assert {name: float(means[name]) for name in ours} == pytest.approx(ours, abs=1e-12)
    test = ranks.friedman(table)
    assert isinstance(test, ranks.Friedman) and test.chi_square_p == pytest.approx(theirs.pvalue, rel=1e-9)


def test_the_groups_of_the_diagram_are_autoranks(ranked: tuple[np.ndarray, object]) -> None:
    table, theirs = ranked
    _, names, groups = get_sorted_rank_groups(theirs, reverse=False)
    expected = {frozenset(names[first : last + 1]) for first, last in groups}
    found = ranks.cliques(ranks.mean_ranks(table), ranks.critical_difference(6, 15))
    assert len(found) > 1 and {frozenset(f"m{j}" for j in group) for group in found} == expected


def test_the_critical_difference_is_autoranks_as_far_as_its_approximation_goes(
    ranked: tuple[np.ndarray, object],
) -> None:
    # autorank takes the studentised range from statsmodels' qsturng, an interpolation with four to five correct digits
    assert ranks.critical_difference(6, 15) == pytest.approx(ranked[1].cd, rel=1e-4)


@pytest.mark.parametrize("methods", [2, 3, 4, 10, 40])
def test_the_critical_difference_solves_the_integral_of_the_range(methods: int) -> None:
    # P(range of k standard normals <= q) = k * integral of phi(z) (Phi(z) - Phi(z - q))^(k - 1)
    q = ranks.critical_difference(methods, 12) / math.sqrt(methods * (methods + 1) / 72) * math.sqrt(2)

    def density(z: float) -> float:
        inside = scipy_stats.norm.cdf(z) - scipy_stats.norm.cdf(z - q)
        return float(methods * scipy_stats.norm.pdf(z) * inside ** (methods - 1))

    assert integrate.quad(density, -10, 20, limit=400, epsabs=1e-12)[0] == pytest.approx(0.95, abs=1e-9)
