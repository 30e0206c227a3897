"""Do methods differ over several pairs or data sets? Ranks and their tests: functions of a table of scores.

scores: (blocks, methods), more is better, finite. A block is a teacher-student pair or a data set: something on which
all methods were run and which is as good as independent of the other blocks; it has one score of each method, its mean
over seeds. Seeds are never blocks. Seeds of one pair are repeated measurements of the same thing: they share data,
split, teacher and chosen configurations, so a test that counts them as blocks is about the luck of the seed on that one
pair, its n grows with computing time instead of with evidence, and a tiny but steady difference on a single pair turns
into "better in general".

Source: Demšar 2006, JMLR 7:1-30, "Statistical comparisons of classifiers over multiple data sets".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
# Below them the test is not a test at 5 %: of 4,000 tables of random ranks of 3 methods Iman and Davenport's F rejects
# 18 % at 3 blocks and 7 % at 4, but 4 % at 5; of 5 methods and more 6 % at 5 blocks.
MINIMUM_BLOCKS = 5
MINIMUM_METHODS = 3
DECIMALS = 9  # scores and differences that agree to these are ties, whatever the last bits of a mean are
ENUMERABLE = 13  # blocks up to which all 2^blocks signs are tried


@dataclass(frozen=True)
class Refusal:
    """Why a test is not computed, in a sentence that says what is missing."""

    reason: str


@dataclass(frozen=True)
class Friedman:
    """Friedman's test that all methods rank alike: chi-square, and the less conservative F of Iman and Davenport."""

    blocks: int
    methods: int
    chi_square: float
    chi_square_p: float
    f: float
    f_p: float


@dataclass(frozen=True)
class Comparison:
    """Wilcoxon's signed-rank test of two methods, by their columns.

    median: of the differences first - second over the blocks. better: blocks on which the first is better, ties half.
    statistic: the smaller sum of ranks. p: two-sided. p_holm: corrected for all comparisons of its family.
    """

    first: int
    second: int
    median: float
    better: float
    statistic: float
    p: float
    p_holm: float


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Rank of each method in a block, 1 for the best, ties sharing their mean; averaged over the blocks: (methods,)."""
    return np.asarray(stats.rankdata(-_table(scores), axis=1).mean(axis=0))


def refusal(blocks: int, methods: int) -> Refusal | None:
    """Why Friedman's test is not computed for a table of this shape; None where it is."""
    if methods < MINIMUM_METHODS:
        return Refusal(f"Friedman's test compares at least {MINIMUM_METHODS} methods; {methods} can be compared here.")
    if blocks < MINIMUM_BLOCKS:
        return Refusal(
            f"Friedman's test needs at least {MINIMUM_BLOCKS} pairs or data sets, and seeds do not count as such; "
            f"there {'is' if blocks == 1 else 'are'} {blocks}."
        )
    return None


def friedman(scores: np.ndarray) -> Friedman | Refusal:
    """Friedman's chi-square with correction for ties, and Iman and Davenport's F; or why there is no test.

    Source: Demšar 2006, section 3.2.2 (without the correction for ties); scipy.stats.friedmanchisquare.
    """
    table = _table(scores)
    blocks, methods = table.shape
    refused = refusal(blocks, methods)
    if refused:
        return refused
    if (np.ptp(table, axis=1) == 0).all():
        return Refusal("all methods score alike on every pair or data set, so there is nothing to rank.")
    result = stats.friedmanchisquare(*table.T)
    chi_square = float(result.statistic)
    return Friedman(
        blocks, methods, chi_square, float(result.pvalue), *iman_davenport(chi_square, blocks, methods)
    )  # fmt: skip


def iman_davenport(chi_square: float, blocks: int, methods: int) -> tuple[float, float]:
    """F = (N - 1) chi² / (N (k - 1) - chi²) with k - 1 and (k - 1)(N - 1) degrees of freedom, and its p.

    Where all N blocks rank the k methods alike, F is infinite and p is the chance of that, (1 / k!)^(N - 1).
    Source: Iman and Davenport 1980; Demšar 2006, section 3.2.2; Conover 1999, section 5.8.
    """
    rest = blocks * (methods - 1) - chi_square
    if rest <= 1e-9:
        return math.inf, math.exp(-(blocks - 1) * math.lgamma(methods + 1))
    f = (blocks - 1) * chi_square / rest
    return f, float(stats.f.sf(f, methods - 1, (methods - 1) * (blocks - 1)))


def signed_rank(values: Sequence[float] | np.ndarray, baseline: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Wilcoxon's signed-rank statistic (the smaller sum of ranks) and two-sided p. values, baseline: (blocks,).

    Blocks without a difference are shared by both sides (Demšar 2006, section 3.1.3). Exact up to 13 blocks, ties
    included: all signs of the differences are tried. Beyond, scipy.stats.wilcoxon: exact without ties, else normal.
    """
    gaps = _gaps(values, baseline)
    ranks = np.sign(gaps) * stats.rankdata(np.abs(gaps))
    zeros = stats.rankdata(np.abs(gaps))[gaps == 0].sum() / 2
    statistic = float(min(ranks[ranks > 0].sum(), -ranks[ranks < 0].sum()) + zeros)
    if len(gaps) > ENUMERABLE:
        return statistic, float(stats.wilcoxon(gaps, zero_method="zsplit").pvalue)
    signs = stats.permutation_test(
        (ranks,), np.sum, permutation_type="samples", vectorized=True, n_resamples=2**ENUMERABLE, axis=-1
    )
    return statistic, float(signs.pvalue)


def smallest_p(blocks: int) -> float:
    """The smallest two-sided p that Wilcoxon's signed-rank test can give: one method better on every block."""
    return 2.0 ** (1 - blocks)


def out_of_reach(blocks: int, comparisons: int, level: float = LEVEL) -> Refusal | None:
    """Why no comparison can be significant after Holm's correction, however the methods differ; None where one can."""
    best = smallest_p(blocks) * comparisons
    if best <= level:
        return None
    return Refusal(
        f"with {blocks} pairs or data sets the smallest p of Wilcoxon's signed-rank test is 2^(1 - {blocks}) = "
        f"{smallest_p(blocks):.2g}, and Holm's correction for {comparisons} comparisons makes that "
        f"{min(best, 1.0):.2g}: nothing can be significant at {100 * level:g} %."
    )


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction: significant at a level where the corrected p is not above it. p: (m,), in [0, 1].

    Source: Holm 1979; Demšar 2006, section 3.2.2.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def pairwise(scores: np.ndarray) -> list[Comparison]:
    """Every two methods compared; Holm's correction over all of them."""
    return _compared(scores, itertools.combinations(range(np.shape(scores)[1]), 2))


def against(scores: np.ndarray, baseline: int) -> list[Comparison]:
    """Every other method compared to the one in column `baseline`; Holm's correction over these comparisons alone."""
    return _compared(scores, [(j, baseline) for j in range(np.shape(scores)[1]) if j != baseline])


def critical_difference(methods: int, blocks: int, level: float = LEVEL) -> float:
    """Nemenyi's test: two methods differ where their mean ranks are at least this far apart.

    q sqrt(k (k + 1) / (6 N)), with q the studentised range for infinitely many degrees of freedom over sqrt(2).
    Source: Demšar 2006, section 3.2.2 and table 5a; scipy.stats.studentized_range.
    """
    q = float(stats.studentized_range.ppf(1 - level, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def cliques(ranks: Sequence[float] | np.ndarray, difference: float) -> list[tuple[int, ...]]:
    """Largest groups of at least two methods that lie closer than the critical difference, as columns, best first.

    Groups may overlap; one that lies within another is left out. ranks: (methods,), mean ranks.
    """
    values = np.asarray(ranks, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    found: list[tuple[int, ...]] = []
    end = 0
    for start in range(len(order)):
        stop = int(np.searchsorted(values[order], values[order[start]] + difference - 10**-DECIMALS))
        if stop > max(end, start + 1):
            found.append(tuple(int(j) for j in order[start:stop]))
            end = stop
    return found


def _compared(scores: np.ndarray, columns: itertools.combinations | Sequence[tuple[int, int]]) -> list[Comparison]:
    table = _table(scores)
    rows = []
    for i, j in columns:
        gaps = _gaps(table[:, i], table[:, j])
        better = float((gaps > 0).sum() + (gaps == 0).sum() / 2)
        rows.append((i, j, float(np.median(gaps)), better, *signed_rank(table[:, i], table[:, j])))
    corrected = holm([p for *_, p in rows])
    return [Comparison(*row, float(p_holm)) for row, p_holm in zip(rows, corrected, strict=True)]


def _gaps(values: Sequence[float] | np.ndarray, baseline: Sequence[float] | np.ndarray) -> np.ndarray:
    first, second = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(
            f"a signed-rank test needs two rows of equal length, at least two; got {first.shape} and {second.shape}"
        )
    return np.round(first - second, DECIMALS)


def _table(scores: np.ndarray) -> np.ndarray:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"ranks need finite scores of shape (blocks, methods); got shape {table.shape}: {table!r}")
    return np.round(table, DECIMALS)
