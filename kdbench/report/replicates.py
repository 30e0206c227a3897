"""Bootstrap replicates of the means of rows over their training seeds: pure functions of arrays.

Rows that have the same seeds are resampled together, because a seed gives them the same order of the data: the paired
design of the differences in the leaderboard. Rows of other seeds are resampled apart from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdbench.report.stats import LEVEL, Interval
from kdbench.seeds import seed_for

REPLICATES = 2000
DECIMALS = 9  # of a mean: what is behind it depends on the order of a sum, and would turn ties into dominance


@dataclass(frozen=True)
class Replicates:
    """The different outcomes among the replicates, and how often each came up.

    means: (k, n, d), of n rows in d objectives. counts: (k,), which add up to the number of replicates.
    """

    means: np.ndarray
    counts: np.ndarray

    def share(self, flags: np.ndarray) -> np.ndarray:
        """Share of the replicates in which something holds. flags: (k, ...) bool or number; result: (...)."""
        return np.asarray(np.tensordot(self.counts / self.counts.sum(), flags, axes=1))

    def interval(self, function: Callable[[np.ndarray], float], rows: Sequence[int]) -> Interval:
        """Percentile interval of a function of the points (len(rows), d) of some rows."""
        points, inverse = np.unique(self.means[:, list(rows)], axis=0, return_inverse=True)
        counts = np.bincount(inverse.ravel(), weights=self.counts).astype(np.int64)
        values = np.repeat([function(point) for point in points], counts)
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(low), float(high))


def replicates(samples: Sequence[Mapping[int, Sequence[float]]], number: int = REPLICATES, seed: int = 0) -> Replicates:
    """Resample the seeds of each row. samples: of each of n rows, by training seed, its d values.

    What does not vary with the seed, such as the number of parameters, stays as it is. The order of rows and seeds
    changes nothing. Source: Efron and Tibshirani 1993.
    """
    drawn: dict[tuple[int, ...], np.ndarray] = {}
    columns = []
    for sample in samples:
        seeds = tuple(sorted(sample))
        if seeds not in drawn:
            rng = np.random.default_rng(seed_for(seed, "bootstrap", *seeds))
            # sorted, so that equal draws give the same sum to the last bit
            drawn[seeds] = np.sort(rng.integers(len(seeds), size=(number, len(seeds))), axis=1)
        values = np.array([sample[s] for s in seeds], dtype=np.float64)
        columns.append(values[drawn[seeds]].mean(axis=1))
    means = np.round(np.stack(columns, axis=1), DECIMALS)
    unique, counts = np.unique(means, axis=0, return_counts=True)
    return Replicates(unique, counts)
