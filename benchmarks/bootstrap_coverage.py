"""How often the bootstrap 95 % interval over n seeds holds the true mean, on normal data.

    python benchmarks/bootstrap_coverage.py

Source of the figures in every table's caption (kdbench/report/captions.py). Prints the share and its standard error.
"""

from __future__ import annotations

import numpy as np

from kdbench.report.stats import bootstrap_interval

REPEATS = 2000


def main() -> None:
    """Print one line for each n."""
    rng = np.random.default_rng(0)
    for n in (3, 5, 10):
        hits = 0
        for _ in range(REPEATS):
            interval = bootstrap_interval(rng.standard_normal(n))
            hits += interval.low <= 0.0 <= interval.high
        share = hits / REPEATS
        error = (share * (1 - share) / REPEATS) ** 0.5
        print(f"n = {n}: {100 * share:.1f} % +- {100 * error:.1f} % of {REPEATS} intervals hold the true mean")


if __name__ == "__main__":
    main()
