"""How often the bootstrap 95 % interval holds the truth, on normal data: over n seeds, and over pairs of n seeds each.

    python benchmarks/bootstrap_coverage.py

Source of the figures in the captions of tables (kdbench/report/captions.py, kdbench/report/aggregate.py). Prints shares
and their standard errors; about ten minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdbench.report.stats import Interval, bootstrap_interval, stratified_interval

REPEATS = 2000


def main() -> None:
    """Print one line for each statistic, n, and number of pairs. The true mean, median and interquartile mean are 0."""
    for statistic in ("mean", "median", "iqm"):
        for n in (3, 5, 10):
            share(
                f"{statistic}, n = {n}", lambda rng, n=n, s=statistic: bootstrap_interval(rng.standard_normal(n), 0, s)
            )
    for statistic in ("mean", "iqm"):
        for pairs, n in ((2, 3), (2, 5), (5, 3), (5, 5), (12, 3), (12, 5)):
            share(
                f"{statistic}, {pairs} pairs, n = {n}",
                lambda rng, shape=(pairs, n), s=statistic: stratified_interval(rng.standard_normal(shape), s),
            )


def share(title: str, draw: Callable[[np.random.Generator], Interval]) -> None:
    """Print how many of the intervals that `draw` makes hold 0."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(REPEATS):
        interval = draw(rng)
        hits += interval.low <= 0.0 <= interval.high
    found = hits / REPEATS
    error = (found * (1 - found) / REPEATS) ** 0.5
    print(f"{title}: {100 * found:.1f} % +- {100 * error:.1f} % of {REPEATS} intervals hold the truth", flush=True)


if __name__ == "__main__":
    main()
