"""What a report shows beside its leaderboard: each exhibit is a table, a figure or both, with words of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdbench.report.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Exhibit:
    """One part of a report, or the reason why it is not there.

    name: stem of its files, such as `ranks`: small letters and hyphens. title: its heading.
    tables: what people read, by pair; one table for the whole study is under the empty name.
    frame: the same numbers for programs, in full precision: `<name>.csv` and `<name>.parquet`.
    figure: draws it, in the report's style (figures.style); `<name>.pdf`, `.svg` and `.png`.
    notes: what it says about itself: n, the unit of replication, the test, the method's source.
    refusal: why nothing is computed, in a sentence that says what is missing; all else is then empty.
    """

    name: str
    title: str
    tables: Mapping[str, Table] = field(default_factory=dict)
    frame: pd.DataFrame | None = None
    figure: Callable[[], Figure] | None = None
    notes: tuple[str, ...] = ()
    refusal: str | None = None
