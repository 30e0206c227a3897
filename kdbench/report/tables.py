"""The tables that people read, as plain cells; the templates only decide how a cell looks in their format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdbench.labels import count_label, seconds_label
from kdbench.record import metric
from kdbench.report.fairness import COMPARED, FAILURES, PHASES, Fairness
from kdbench.report.leaderboard import Row
from kdbench.report.search import DEFAULT_OBJECTIVES, SearchRow, objective_title
from kdbench.report.stats import Difference

NONE = "–"
SHORT = {
    "top1_pct": "Top-1", "top5_pct": "Top-5", "nll": "NLL", "macro_precision_pct": "Precision",
    "macro_recall_pct": "Recall", "ece_pct": "ECE", "agreement_pct": "Agreement", "agreement_kl_nat": "KL to teacher",
    "corrupted_top1_pct": "Corrupted", "best_epoch_top1_pct": "Best epoch", "params": "Params", "size_bytes": "Size",
    "flops": "FLOPs",
    "latency_b1_p50_ms": "Batch 1", "latency_b256_p50_ms": "Batch 256", "train_wall_s": "Training",
    "train_device_s": "Device time",
}  # fmt: skip
OF_THE_BEST_EPOCH = {"val_best_epoch_top1_pct": "Val best epoch", "test_best_epoch_top1_pct": "Test best epoch"}
QUALITIES = ("test_top5_pct", "test_macro_precision_pct", "test_macro_recall_pct", "test_agreement_pct",
             "test_agreement_kl_nat", "test_corrupted_top1_pct", "val_best_epoch_top1_pct",
             "test_best_epoch_top1_pct")  # fmt: skip
COSTS = ("size_bytes", "flops", "latency_b256_p50_ms", "train_wall_s", "train_device_s")
START = (
    "the student's first weights; + wall time of networks beside the teacher, which rows share and compute leaves out"
)
ARROWS = {"max": "↑", "min": "↓", "none": ""}
BEST = ("top1_pct", "top5_pct", "nll", "macro_precision_pct", "macro_recall_pct", "ece_pct", "agreement_pct",
        "agreement_kl_nat", "corrupted_top1_pct")  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A heading: its short text with unit and arrow, the full words behind it, and the metric it shows, if any."""

    heading: str
    title: str = ""
    numeric: bool = True
    metric: str = ""


@dataclass(frozen=True)
class Cell:
    """text, and `extra` in smaller print behind it (an interval). best: the best of its column among ranked rows.

    near: not distinguishable from the best: the interval of the difference to the best-ranked row holds 0.
    """

    text: str
    extra: str = ""
    best: bool = False
    near: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows of equal length. kinds: of each row, `teacher`, `student`, `unranked` or `missing`."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    kinds: tuple[str, ...]


Maker = Callable[[Row], Cell]
SCORE = "top1_pct"
PUBLISHED = Column("Published % (protocol)", "what the literature prints for the same; never used for ranking")


def main_table(rows: Sequence[Row]) -> Table:
    """Accuracy with interval, differences, calibration, cost, front, failures."""
    literature = [(PUBLISHED, _published)] if any(row.published for row in rows) else []
    return _table(rows, [
        *_names(), (Column("n", "seeds finished of seeds started"), _n), (_column("test_top1_pct", " [95 %]"), _score),
        *literature,
        (Column("Δ scratch", "difference to the same student trained by scratch, % points"), _difference("scratch")),
        (Column("Δ kd", "difference to the same student trained by kd, % points"), _difference("kd")),
        *_results("test_nll", "test_ece_pct", "params", "latency_b1_p50_ms"),
        (Column("Front", "P: accuracy and parameters; L: accuracy and latency at batch 1", False), _front),
        FAILED,
    ])  # fmt: skip


def details_table(rows: Sequence[Row]) -> Table:
    """The chosen hyper-parameters and everything else that was measured; what no row has is left out."""
    measured = [name for name in (*QUALITIES, *COSTS) if any(math.isfinite(row.value(name)) for row in rows)]
    return _table(rows, [*_names(), CHOSEN, *_results(*measured), FAILED])


def quality_table(rows: Sequence[Row]) -> Table:
    """What else was measured on the test split, and the published accuracy: precision and recall left out."""
    names = ("test_nll", "test_ece_pct", *(name for name in QUALITIES if "_macro_" not in name))
    measured = [name for name in names if any(math.isfinite(row.value(name)) for row in rows)]
    literature = [(PUBLISHED, _published)] if any(row.published for row in rows) else []
    return _table(rows, [*_names(), *_results(*measured), *literature, FAILED])


def configuration_table(rows: Sequence[Row]) -> Table:
    """The chosen hyper-parameters and what a row costs."""
    measured = [name for name in COSTS if any(math.isfinite(row.value(name)) for row in rows)]
    return _table(rows, [*_names(), CHOSEN, *_results(*measured), FAILED])


def search_table(rows: Sequence[SearchRow], given: Sequence[Fairness] = ()) -> Table:
    """The search of each method, on validation. given: what counts the trials that did not finish, if anything."""
    failures = {(row.pair, row.method): row.failures for row in given}
    several = len({row.pair for row in rows}) > 1
    objective = rows[0].objective if rows else DEFAULT_OBJECTIVES[0]
    columns = [
        *_pair_column(several),
        Column("Method", numeric=False),
        Column("Trials", "finished of run"),
        _best_column(objective),
        Column("Student", numeric=False),
        Column("Hyper-parameters", numeric=False),
        Column("Compute", "wall time of all trials"),
        *([FAILED[0]] if given else []),
    ]
    cells = [
        (*_pair_cell(r.pair, several), Cell(r.method), Cell(f"{r.finished}/{r.run}"),
         Cell(number_text(r.objective, r.best)),
         Cell(r.student or NONE), Cell(r.settings or NONE), Cell(seconds_label(r.wall_s)),
         *([Cell(failures_text(failures.get((r.pair, r.method), {}), ("search",)))] if given else []))
        for r in rows
    ]  # fmt: skip
    return Table(tuple(columns), tuple(cells), ("student",) * len(cells))


def _best_column(objective: str) -> Column:
    words = _column(objective).heading
    lower = words if words[:2].isupper() else words[0].lower() + words[1:]
    split = "val " if objective.startswith("val_") else ""
    return Column(f"Best {split}{lower}", f"{objective_title(objective)}: one training, selected for being the best")


def fairness_table(rows: Sequence[Fairness]) -> tuple[Table, list[str], list[str]]:
    """What differs between methods as a table, what was the same for all as `title: value`, and the exceptions."""
    same, varying = [], []
    for name, title in COMPARED.items():
        found = {row.cells[name] for row in rows} - {None}
        if name != "search_trials" and len(found) <= 1 and not any(name in row.differs for row in rows):
            same += [f"{title}: {value}" for value in found]
        elif name != "search_trials":
            varying.append(name)
    if {row.start for row in rows} - {None} == {"random"}:
        same.append("start: random")
    several, transfer = (
        len({row.pair for row in rows}) > 1,
        any(row.start != "random" or row.source_wall_s for row in rows if row.start),
    )
    columns = [
        *_pair_column(several),
        Column("Method", numeric=False),
        *([Column("Start", START, numeric=False)] if transfer else []),
        Column("Search trials", "run of planned"),
        Column("Final trainings", "run of planned"),
        *(Column(COMPARED[name].capitalize(), numeric=False) for name in varying),
        Column("Search compute", "wall time"),
        Column("Final compute", "wall time"),
        FAILED[0],
        Column("Ranked", numeric=False),
    ]
    cells = [(*_pair_cell(row.pair, several), *_fairness_cells(row, varying, transfer)) for row in rows]
    kinds = ["unranked" if row.differs else "missing" if not row.configurations else "student" for row in rows]
    fixed = {row.method: row.by_definition for row in rows if row.by_definition}
    notes = [f"{method} fixes {settings} by definition" for method, settings in fixed.items()]
    further = list(dict.fromkeys(row.method for row in rows if row.further_images))
    notes += [f"{method} runs on further images by definition" for method in further]
    return Table(tuple(columns), tuple(cells), tuple(kinds)), same, notes


def _pair_column(several: bool) -> list[Column]:
    """A column for the pair, where a table holds several: sizes that the study lists with `each:`."""
    return [Column("Pair", numeric=False)] if several else []


def _pair_cell(pair: str, several: bool) -> list[Cell]:
    return [Cell(pair)] if several else []


def _fairness_cells(row: Fairness, varying: list[str], transfer: bool) -> tuple[Cell, ...]:
    def cell(name: str) -> Cell:
        return Cell(f"{row.cells[name] or NONE}{' (differs)' if name in row.differs else ''}")

    trials = f"{row.search_run}{'' if row.search_planned is None else f' of {row.search_planned}'}"
    final = f"{row.final_run}{'' if row.final_planned is None else f' of {row.final_planned}'}"
    start = Cell(row.start or NONE, f"+ {seconds_label(row.source_wall_s)}" if row.source_wall_s else "")
    verdict = "no: differs" if row.differs else "yes" if row.configurations else "no: not retrained"
    differs = " (differs)" if "search_trials" in row.differs else ""
    return (
        Cell(row.method), *([start] if transfer else []), Cell(trials + differs), Cell(final), *map(cell, varying),
        Cell(seconds_label(row.search_wall_s)), Cell(seconds_label(row.final_wall_s)),
        Cell(failures_text(row.failures)), Cell(verdict),
    )  # fmt: skip


def number_text(name: str, value: float) -> str:
    """A result as text by its unit: two decimals of a percentage, three of a nat, prefixes for counts."""
    unit = metric(name).unit
    if not math.isfinite(value):
        return NONE
    if unit == "%":
        return f"{value:.2f}"
    if unit == "nat":
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:.2e}"
    if unit == "ms":
        return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
    if unit == "s":
        return seconds_label(value)
    return f"{count_label(value)}{'B' if unit == 'B' else ''}"


def difference_cell(difference: Difference | None) -> Cell:
    """`+0.41 [0.10, 0.70]`, with ‡ where it is unpaired."""
    if difference is None or not math.isfinite(difference.mean):
        return Cell(NONE)
    low, high = difference.interval.low, difference.interval.high
    extra = "" if low is None or high is None else f"[{_signed(low)}, {_signed(high)}]"
    return Cell(f"{_signed(difference.mean)}{'' if difference.paired else '‡'}", extra)


def _signed(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def _column(name: str, suffix: str = "") -> Column:
    base = name.removeprefix("test_").removeprefix("val_")
    about = metric(base)
    unit = f" {about.unit}" if about.unit in ("%", "ms") else ""
    better = {"max": "; higher is better", "min": "; lower is better", "none": ""}[about.direction]
    short, title = OF_THE_BEST_EPOCH.get(name) or SHORT[base], about.title
    if name in OF_THE_BEST_EPOCH:
        title += " on validation" if name.startswith("val_") else " on validation, on the test split"
        better += "; chosen on the curve, so optimistic" if name.startswith("val_") else ""
        better += "; not used to rank"
    return Column(f"{short}{unit} {ARROWS[about.direction]}{suffix}", title + better, metric=base)


def _names() -> list[tuple[Column, Maker]]:
    return [
        (Column("#", "rank by mean test top-1"), lambda row: Cell(str(row.rank) if row.rank else NONE)),
        (Column("Method", numeric=False), lambda row: Cell(row.method)),
        (Column("Student", numeric=False), lambda row: Cell(row.student or NONE)),
    ]


def _results(*names: str) -> list[tuple[Column, Maker]]:
    return [(_column(name), _result(name)) for name in names]


def _result(name: str) -> Maker:
    def cell(row: Row) -> Cell:
        text = number_text(name, row.value(name))
        mark = "†" if name.startswith("latency") and row.latency_conditions and not row.latency_comparable else ""
        return Cell(text + mark)

    return cell


def _n(row: Row) -> Cell:
    expected = row.planned or row.runs
    return Cell(
        NONE
        if row.kind == "missing"
        else f"{len(row.scores)}"
        if len(row.scores) == expected
        else f"{len(row.scores)}/{expected}"
    )


def _score(row: Row) -> Cell:
    low, high = row.interval.low, row.interval.high
    return Cell(number_text("top1_pct", row.score), "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]")


def _difference(method: str) -> Maker:
    return lambda row: difference_cell(row.differences.get(method))


def _published(row: Row) -> Cell:
    """The first source's number with its protocol; the others are in the notes."""
    first = next(iter(row.published), None)
    return Cell(NONE) if first is None else Cell(first.text, f"({first.protocol})")


def _front(row: Row) -> Cell:
    return Cell(" ".join({"params": "P", "latency": "L"}[name] for name in row.fronts))


def failures_text(failures: Mapping[str, int], phases: Sequence[str] = PHASES) -> str:
    """`search 1 diverged; final 2 failed`: trainings that did not finish, by phase and by what became of them; or 0."""
    parts = []
    for phase in phases:
        counts = [(status, failures.get(f"{phase}_{status}", 0)) for status in FAILURES]
        found = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts if count)
        parts += [f"{phase} {found}"] if found else []
    return "; ".join(parts) or "0"


def _failures(row: Row) -> Cell:
    return Cell(failures_text(row.failures))


def _chosen(row: Row) -> Cell:
    return Cell(row.settings or NONE)


def _table(rows: Sequence[Row], makers: Sequence[tuple[Column, Maker]]) -> Table:
    grid = [[make(row) for _, make in makers] for row in rows]
    for j, (column, _) in enumerate(makers):
        if column.metric == SCORE:
            for i in (i for i, row in enumerate(rows) if row.within_best):
                grid[i][j] = replace(grid[i][j], near=True)
        if column.metric in BEST:
            for i in _best(rows, [line[j].text for line in grid], column.metric):
                grid[i][j] = replace(grid[i][j], best=True, near=False)
    kinds = tuple("unranked" if row.kind == "student" and row.unranked else row.kind for row in rows)
    return Table(tuple(column for column, _ in makers), tuple(map(tuple, grid)), kinds)


def _best(rows: Sequence[Row], texts: list[str], name: str) -> list[int]:
    """Ranked rows that show the best number of a column; equal as printed is equal."""
    able = [i for i, row in enumerate(rows) if row.rank and texts[i] != NONE]
    if not able:
        return []
    pick = max if metric(name).direction == "max" else min
    best = pick(float(texts[i]) for i in able)
    return [i for i in able if float(texts[i]) == best]


CHOSEN: tuple[Column, Maker] = (Column("Hyper-parameters", "chosen on validation", False), _chosen)
FAILED: tuple[Column, Maker] = (
    Column("Failures", "trainings that did not finish, by phase and by what became of them", False), _failures,
)  # fmt: skip
