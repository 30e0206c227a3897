"""Accuracy of retrained students on corrupted test images: `robustness` sums up, `corruptions` has each corruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from kdbench.record import corruption_of
from kdbench.report import stats
from kdbench.report.evaluations import Evaluated, counted, evaluated
from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results, table_name
from kdbench.report.robustness_figure import dots, heat_map
from kdbench.report.stats import Interval
from kdbench.report.tables import NONE, Cell, Column, Table, number_text

CLEAN, CORRUPTED = "test_uncorrupted_top1_pct", "test_corrupted_top1_pct"
SOURCE = (
    "Corruptions of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv:1903.12261), made from the test images with the "
    "published parameters for 32 x 32 pixels and draws of their own; frost is not among them, for it needs photographs."
)


def robustness(results: Results, board: Leaderboard) -> list[Exhibit]:
    """Mean accuracy over all corruptions and severities with its drop against the same images uncorrupted, and the
    accuracy under each corruption; nothing where no student was evaluated on corrupted images."""
    found = evaluated(results, board, CLEAN, CORRUPTED)
    if not found:
        return []
    tables = by_table(found)
    summed = Exhibit(
        name="robustness",
        title="Robustness to corruptions",
        tables={name: summary_table(rows) for name, rows in tables.items()},
        frame=robustness_frame(found),
        figure=partial(dots, tables, CLEAN, CORRUPTED),
        notes=(_measured(results), intervals(found), counted(results), SOURCE),
    )
    names = corruptions_of(found)
    each = Exhibit(
        name="corruptions",
        title="Accuracy under each corruption",
        tables={name: corruptions_table(rows, names) for name, rows in tables.items()},
        frame=corruptions_frame(found, names),
        figure=partial(heat_map, tables, CLEAN, CORRUPTED, names),
        notes=("Top-1 accuracy in percent, mean over severities and seeds.", _measured(results), SOURCE),
    )
    return [summed, each]


def by_table(found: Sequence[Evaluated]) -> dict[str, list[Evaluated]]:
    """The rows of each table of the leaderboard, in its order."""
    out: dict[str, list[Evaluated]] = {}
    for one in found:
        out.setdefault(table_name(one.row.pair), []).append(one)
    return out


def corruptions_of(found: Sequence[Evaluated]) -> dict[str, str]:
    """The corruptions that were measured of every row, in the order in which studies list them: name -> result name."""
    from kdbench.data.corruptions import CORRUPTIONS

    named = [{str(corruption_of(name)): name for name in one.values if corruption_of(name)} for one in found]
    common = set.intersection(*(set(names) for names in named))
    order = [*CORRUPTIONS, *sorted(common - set(CORRUPTIONS))]
    return {name: named[0][name] for name in order if name in common}


def drops(one: Evaluated) -> list[float]:
    """What corruption costs, in percentage points, by seed: the same students on the same images."""
    return [clean - bad for clean, bad in zip(one.values[CLEAN], one.values[CORRUPTED], strict=True)]


def summary_table(found: Sequence[Evaluated]) -> Table:
    """One line for each row: uncorrupted, corrupted with interval, drop with interval."""
    columns = (
        Column("Method", numeric=False), Column("Student", numeric=False), Column("n", "seeds evaluated"),
        Column("Uncorrupted % ↑", "top-1 accuracy on the same images uncorrupted; higher is better"),
        Column("Corrupted % ↑ [95 %]", "mean top-1 accuracy over corruptions and severities; higher is better"),
        Column("Drop ↓ [95 %]", "uncorrupted minus corrupted, % points; lower is better"),
    )  # fmt: skip
    cells = [
        (Cell(one.row.method), Cell(one.row.student or NONE), Cell(str(len(one.values[CORRUPTED]))),
         Cell(number_text(CLEAN, one.mean(CLEAN))),
         Cell(number_text(CORRUPTED, one.mean(CORRUPTED)), bounds(one.interval(CORRUPTED))),
         Cell(number_text(CORRUPTED, stats.mean(drops(one))), bounds(stats.bootstrap_interval(drops(one)))))
        for one in found
    ]  # fmt: skip
    return Table(columns, tuple(with_best(found, cells, {3: max, 4: max, 5: min})), kinds(found))


def corruptions_table(found: Sequence[Evaluated], names: Mapping[str, str]) -> Table:
    """One line for each row, one column for each corruption."""
    heads = [Column(name.replace("_", " "), f"top-1 accuracy under {name.replace('_', ' ')}, %") for name in names]
    columns = (Column("Method", numeric=False), Column("Student", numeric=False), *heads)
    cells = [
        (Cell(one.row.method), Cell(one.row.student or NONE),
         *(Cell(number_text(result, one.mean(result))) for result in names.values()))
        for one in found
    ]  # fmt: skip
    return Table(columns, tuple(with_best(found, cells, dict.fromkeys(range(2, len(columns)), max))), kinds(found))


def with_best(
    found: Sequence[Evaluated], cells: Sequence[tuple[Cell, ...]], better: Mapping[int, Callable[..., float]]
) -> list[tuple[Cell, ...]]:
    """The cells, with the best of some columns among ranked rows marked; equal as printed is equal."""
    out = [list(line) for line in cells]
    for column, pick in better.items():
        able = [i for i, one in enumerate(found) if one.row.rank and out[i][column].text != NONE]
        best = pick((float(out[i][column].text) for i in able), default=float("nan"))
        for i in able:
            if float(out[i][column].text) == best:
                out[i][column] = Cell(out[i][column].text, out[i][column].extra, best=True)
    return [tuple(line) for line in out]


def kinds(found: Sequence[Evaluated]) -> tuple[str, ...]:
    """How the lines of a table look."""
    return tuple("unranked" if one.row.unranked else "student" for one in found)


def bounds(interval: Interval) -> str:
    """`[70.10, 71.32]`; nothing where there is no interval."""
    return "" if interval.low is None or interval.high is None else f"[{interval.low:.2f}, {interval.high:.2f}]"


def robustness_frame(found: Sequence[Evaluated]) -> pd.DataFrame:
    """One line for each row: means and intervals over seeds."""
    lines = []
    for one in found:
        corrupted, drop = one.interval(CORRUPTED), stats.bootstrap_interval(drops(one))
        lines.append({
            **identity(one), CLEAN: one.mean(CLEAN), CORRUPTED: one.mean(CORRUPTED),
            f"{CORRUPTED}_low": corrupted.low, f"{CORRUPTED}_high": corrupted.high,
            "drop_pct": stats.mean(drops(one)), "drop_pct_low": drop.low, "drop_pct_high": drop.high,
        })  # fmt: skip
    return pd.DataFrame(lines)


def corruptions_frame(found: Sequence[Evaluated], names: Mapping[str, str]) -> pd.DataFrame:
    """One line for each row and corruption."""
    lines = [
        {
            **identity(one),
            "corruption": name,
            "test_top1_pct": one.mean(result),
            "test_top1_pct_low": one.interval(result).low,
            "test_top1_pct_high": one.interval(result).high,
        }
        for one in found
        for name, result in names.items()
    ]
    return pd.DataFrame(lines)


def identity(one: Evaluated) -> dict[str, object]:
    """What names a row in every table, and how many seeds of it were evaluated."""
    row = one.row
    seeds = len(next(iter(one.values.values())))
    return {"row": row.id, "pair": row.pair, "method": row.method, "student": row.student, "seeds_evaluated": seeds}


def intervals(found: Sequence[Evaluated]) -> str:
    """What the intervals are made of."""
    counts = sorted({len(one.values[CORRUPTED]) for one in found})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    short = " There are none below n = 3." if counts[0] < stats.MINIMUM else ""
    return f"Means and bootstrap 95 % intervals over training seeds (n = {n}); the images are the same for all.{short}"


def _measured(results: Results) -> str:
    """Which images, corruptions and severities."""
    asked = next(r.spec.train["corruptions"] for r in results.phase("evaluation") if "corruptions" in r.spec.train)
    severities = ", ".join(map(str, np.sort(asked["severities"])))
    images = "all" if asked["images"] is None else f"{asked['images']} of the"
    return f"{len(asked['names'])} corruptions at severities {severities} on {images} test images."
