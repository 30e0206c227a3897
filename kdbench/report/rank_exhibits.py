"""Do methods differ over the pairs of a study? Ranks, tests and the critical-difference diagram, or why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from kdbench.labels import data_label, plural
from kdbench.report import ranks
from kdbench.report.aggregate import Aggregate, missing_notes
from kdbench.report.exhibit import Exhibit
from kdbench.report.figures import method_styles
from kdbench.report.leaderboard import BASELINES, SCORE
from kdbench.report.load import Results
from kdbench.report.rank_figure import rank_figure
from kdbench.report.ranks import Comparison, Friedman, Refusal
from kdbench.report.tables import NONE, Cell, Column, Table

Against = Mapping[int, Comparison]  # by column of the method that is compared


def rank_exhibits(results: Results, found: Sequence[Aggregate], pairs: Sequence[str]) -> list[Exhibit]:
    """`ranks` with Friedman's test and the diagram, and `rank-comparisons` of every two methods; or why not.

    Only methods that have a ranked row on every pair are compared.
    """
    title, complete = "Ranks over pairs", [entry for entry in found if not entry.missing]
    methods = [entry.method for entry in complete]
    scores = _scores(complete, pairs)
    test = ranks.refusal(len(pairs), len(methods)) or ranks.friedman(scores)
    if isinstance(test, Refusal):
        lost = len(found) - len(complete)
        left_out = f" {plural(lost, 'method')} without a ranked row on every pair left out." if lost else ""
        return [Exhibit("ranks", title, refusal=f"{test.reason[0].upper()}{test.reason[1:]}{left_out}")]
    means, distance = ranks.mean_ranks(scores), ranks.critical_difference(len(methods), len(pairs))
    # without a rejection there is nothing that a test after Friedman's could tell apart
    groups = ranks.cliques(means, distance) if rejected(test) else [tuple(range(len(methods)))]
    against = {name: _against(scores, methods.index(name)) for name in BASELINES if name in methods}
    reached = {name: compared for name, compared in against.items() if not isinstance(compared, Refusal)}
    exhibit = Exhibit(
        "ranks",
        title,
        {"": _table(complete, means, reached)},
        pd.DataFrame(_lines(complete, means, reached, test, distance)),
        partial(rank_figure, methods, means.tolist(), distance, groups, method_styles(results.methods), _caption(test)),
        (
            *_notes(results, complete, pairs, test, distance),
            *(f"No p against {name}: {why.reason}" for name, why in against.items() if isinstance(why, Refusal)),
            *missing_notes(results, found, pairs),
        ),
    )
    return [exhibit, _comparisons(scores, methods)]


def rejected(test: Friedman) -> bool:
    """Whether the test says that methods differ: Iman and Davenport's F at 5 %."""
    return test.f_p <= ranks.LEVEL


def _scores(complete: Sequence[Aggregate], pairs: Sequence[str]) -> np.ndarray:
    """Mean test top-1 accuracy over seeds: (pairs, methods)."""
    return np.array([[entry.rows[pair].score for entry in complete] for pair in pairs])


def _against(scores: np.ndarray, baseline: int) -> Against | Refusal:
    blocks, methods = scores.shape
    refused = ranks.out_of_reach(blocks, methods - 1)
    return refused or {compared.first: compared for compared in ranks.against(scores, baseline)}


def _order(complete: Sequence[Aggregate], means: np.ndarray) -> list[int]:
    return sorted(range(len(complete)), key=lambda j: (means[j], complete[j].method))


def _place(means: np.ndarray, j: int) -> int:
    return 1 + int((means < means[j] - 10**-ranks.DECIMALS).sum())


def _table(complete: Sequence[Aggregate], means: np.ndarray, against: Mapping[str, Against]) -> Table:
    columns = (
        Column("#", "place by mean rank"), Column("Method", numeric=False),
        Column("Mean rank ↓", "over the pairs, 1 for the best"),
        Column("Mean %", "test top-1 accuracy, mean of the pairs"),
        *(c for b in against for c in (Column(f"Better than {b} on", "pairs; ties count half"),
                                       Column(f"p {b} (Holm)", "Wilcoxon's signed-rank test, corrected by Holm"))),
    )  # fmt: skip
    rows = []
    for j in _order(complete, means):
        compared = [found.get(j) for found in against.values()]
        place = _place(means, j)
        rows.append((
            Cell(str(place)), Cell(complete[j].method), Cell(f"{means[j]:.2f}", best=place == 1),
            Cell(f"{complete[j].mean:.2f}"),
            *(cell for c in compared for cell in (Cell(f"{c.better:g}/{len(complete[j].rows)}" if c else NONE),
                                                  Cell(p_text(c.p_holm) if c else NONE))),
        ))  # fmt: skip
    return Table(columns, tuple(rows), ("student",) * len(rows))


def _lines(
    complete: Sequence[Aggregate], means: np.ndarray, against: Mapping[str, Against], test: Friedman, distance: float
) -> list[dict[str, Any]]:
    """One line for each method; what is said of all of them together stands in each."""
    lines = []
    for j in _order(complete, means):
        line: dict[str, Any] = {
            "place": _place(means, j), "method": complete[j].method, "mean_rank": means[j], "pairs": test.blocks,
            f"{SCORE}_mean": complete[j].mean,
        }  # fmt: skip
        for baseline in BASELINES:
            compared = against.get(baseline, {}).get(j)
            line |= {
                f"better_than_{baseline}_pairs": compared and compared.better,
                f"wilcoxon_{baseline}_p": compared and compared.p,
                f"wilcoxon_{baseline}_p_holm": compared and compared.p_holm,
            }
        lines.append({
            **line, "critical_difference": distance, "friedman_chi_square": test.chi_square,
            "friedman_chi_square_p": test.chi_square_p, "friedman_f": test.f, "friedman_f_p": test.f_p,
        })  # fmt: skip
    return lines


def _comparisons(scores: np.ndarray, methods: Sequence[str]) -> Exhibit:
    """Every two methods by Wilcoxon-Holm; in the table only those that differ, in the frame all."""
    name, title = "rank-comparisons", "Comparisons of every two methods"
    count = len(methods) * (len(methods) - 1) // 2
    if refused := ranks.out_of_reach(len(scores), count):
        return Exhibit(name, title, refusal=f"Not computed: {refused.reason}")
    compared = sorted(ranks.pairwise(scores), key=lambda c: (c.p_holm, c.p, c.first, c.second))
    lines = [
        {"method": methods[c.first], "other": methods[c.second], "pairs": len(scores), "better_pairs": c.better,
         "median_difference_pct": c.median, "wilcoxon_statistic": c.statistic, "p": c.p, "p_holm": c.p_holm}
        for c in compared
    ]  # fmt: skip
    differing = [c for c in compared if c.p_holm <= ranks.LEVEL]
    notes = (
        f"Wilcoxon's signed-rank test on {len(scores)} pairs, two-sided (the unit of replication is the pair; equal "
        f"scores are shared by both sides), corrected by Holm for all {count} comparisons. "
        f"{len(differing) or 'None'} of {count} significant at {100 * ranks.LEVEL:g} %; {name}.csv has all of them.",
    )
    tables = {"": _differing(differing, methods, len(scores))} if differing else {}
    return Exhibit(name, title, tables, pd.DataFrame(lines), notes=notes)


def _differing(compared: Sequence[Comparison], methods: Sequence[str], pairs: int) -> Table:
    """The better method first."""
    columns = (
        Column("Better", numeric=False), Column("Worse", numeric=False), Column("On", "pairs; ties count half"),
        Column("Median Δ", "of the differences, % points"), Column("p"), Column("p (Holm)"),
    )  # fmt: skip
    rows = []
    for c in compared:
        first = c.better > pairs / 2 or (c.better == pairs / 2 and c.median > 0)
        names = (methods[c.first], methods[c.second])[:: 1 if first else -1]
        better = c.better if first else pairs - c.better
        rows.append((
            *map(Cell, names), Cell(f"{better:g}/{pairs}"), Cell(f"{abs(c.median):+.2f}"), Cell(p_text(c.p)),
            Cell(p_text(c.p_holm)),
        ))  # fmt: skip
    return Table(columns, tuple(rows), ("student",) * len(rows))


def _caption(test: Friedman) -> str:
    verdict = (
        "bars join methods that Nemenyi's test does not tell apart at 5 %"
        if rejected(test)
        else "no difference between methods is shown"
    )
    return f"{test.blocks} pairs, means over seeds; {_f_text(test)}:\n{verdict}"


def _f_text(test: Friedman) -> str:
    free = f"{test.methods - 1}, {(test.methods - 1) * (test.blocks - 1)}"
    value = f"{test.f:.2f}" if np.isfinite(test.f) else "∞"
    return f"Friedman's test, F({free}) = {value}, p {p_relation(test.f_p)}"


def _notes(
    results: Results, complete: Sequence[Aggregate], pairs: Sequence[str], test: Friedman, distance: float
) -> list[str]:
    teachers = len({pair.rpartition(" -> ")[0] for pair in pairs})
    verdict = (
        "methods differ"
        if rejected(test)
        else "no difference between methods is shown, so the diagram joins all of them"
    )
    return [
        f"n = {len(pairs)} pairs. The unit of replication is the pair, never the seed: on each pair a method has one "
        "score, its mean test top-1 accuracy over seeds, and is ranked by it (1 for the best, ties share their mean). "
        f"The pairs share the data ({data_label(results.section('data'))}) and have {plural(teachers, 'teacher')}, so "
        "they are less than independent, and the tests say nothing about other data.",
        f"{_f_text(test)} (Iman and Davenport; chi-square({test.methods - 1}) = {test.chi_square:.2f}, "
        f"p {p_relation(test.chi_square_p)}, corrected for ties): {verdict}. Critical difference of mean ranks at 5 % "
        f"by Nemenyi's test: {distance:.2f} for {len(complete)} methods. Source: Demšar 2006.",
        "p against a baseline: Wilcoxon's signed-rank test over the pairs, two-sided, corrected by Holm for the "
        f"{len(complete) - 1} comparisons to that baseline.",
    ]


def p_text(p: float) -> str:
    """Three decimals, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_relation(p: float) -> str:
    """`= 0.020` or `< 0.001`, to stand behind a letter p."""
    return p_text(p) if p < 0.001 else f"= {p_text(p)}"
