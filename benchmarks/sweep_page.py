"""The page of benchmarks/sweep.py: rates, ratios and verdicts, from the measurements alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from measuring import Machine, Spread, conditions, cpu_flags, page, table
from sweep_plan import BATCH, COLUMNS, LOADERS, LR, PAIRS, RIVALS, VALIDATION, Cell

from kdbench.train.recipe import cpu_has_bf16


def rate(found: Iterable[dict[str, Any]], cell: Cell, up_to: int) -> tuple[Spread, bool] | None:
    """Trials per hour of a side over the rounds, and whether they were measured at fewer trials; None where missing."""
    same = [m for m in found if all(m[k] == getattr(cell, k) for k in ("pair", "images", "epochs", "column", "side"))]
    exact = [m for m in same if m["trials"] == cell.trials]
    few = max((m["trials"] for m in same if m["trials"] <= up_to), default=0)
    chosen = exact or ([m for m in same if m["trials"] == few] if cell.side in RIVALS and cell.trials > few else [])
    if not chosen:
        return None
    return Spread.of(3600 * m["trials"] / m["wall_s"] for m in chosen), not exact


def rows(found: Sequence[dict[str, Any]], trials: Sequence[int], up_to: int) -> dict[tuple[str, int], list[list[str]]]:
    """Rows of the tables, by column and epochs."""
    settings = list(dict.fromkeys((m["column"], m["epochs"], m["pair"], m["images"]) for m in found))
    tables: dict[tuple[str, int], list[list[str]]] = {}
    for column, epochs, pair, images in settings:
        for n in trials:
            sides = {side: rate(found, Cell(pair, images, epochs, column, side, n, 0), up_to)
                     for side in ("kdbench", "kdbench-mlflow", *RIVALS)}  # fmt: skip
            own = sides["kdbench"]
            if own is None:
                continue
            row = [pair, str(images), str(n)]
            row += ["-" if rate is None else ("~" if rate[1] else "") + rate[0].text(0) for rate in sides.values()]
            row += ["-" if (r := sides[side]) is None else f"{own[0].median / r[0].median:.2f}" for side in RIVALS]
            tables.setdefault((column, epochs), []).append(
                [*row, training_ratio(found, pair, images, epochs, column, n)]
            )
    return tables


def training_ratio(found: Sequence[dict[str, Any]], pair: str, images: int, epochs: int, column: str, n: int) -> str:
    """Median seconds of a process of the field's loop to those of a trial inside of kdbench's workers: without what is
    paid once for a whole sweep."""

    def seconds(side: str) -> list[float]:
        same = [m for m in found if (m["pair"], m["images"], m["epochs"], m["column"], m["side"]) ==
                (pair, images, epochs, column, side)]  # fmt: skip
        here = [m for m in same if m["trials"] == n] or same
        return [s for m in here for s in m["trial_s"]]

    field, own = seconds("field"), seconds("kdbench")
    return f"{statistics.median(field) / statistics.median(own):.2f}" if field and own else "-"


def verdicts(found: Sequence[dict[str, Any]], n: int, up_to: int, machine: Machine) -> list[str]:
    """A line for each pair with a target: by how much it is met or missed, or why nothing can be said."""
    lines = []
    amx = "amx_bf16" in cpu_flags()
    for name, pair in PAIRS.items():
        for images, epochs in dict.fromkeys((m["images"], m["epochs"]) for m in found if m["pair"] == name):
            own, field = (rate(found, Cell(name, images, epochs, "kd", s, n, 0), up_to) for s in ("kdbench", "field"))
            if pair.target is None or own is None or field is None:
                continue
            ratio = own[0].median / field[0].median
            text = f"{'met' if ratio >= pair.target else 'missed'}: {ratio:.2f}x, target {pair.target:g}x"
            note = "" if amx else " (the target is for a CPU with AMX, which this one has not)"
            lines.append(f"- {name}, {n} trials, {images} images, {epochs} epochs: {machine.verdict(text)}{note}")
    return lines


def sweep_page(
    found: Sequence[dict[str, Any]], machine: Machine, trials: Sequence[int], up_to: int, workers: int,
    notes: Sequence[str],
) -> str:  # fmt: skip
    """The page of all measurements so far. trials: numbers of trials that get a row. up_to: see `rate`."""
    header = [
        "pair",
        "images",
        "n",
        "kdbench",
        "with MLflow",
        *RIVALS,
        *(f"/ {side}" for side in RIVALS),
        "trial / field",
    ]
    parts = []
    for (column, epochs), lines in rows(found, trials, up_to).items():
        methods = " and ".join(COLUMNS[column])
        parts += [f"## {methods}, {epochs} epochs", table(header, lines)]
    quiet = [m for m in found if m["others_used"] <= machine.limit]
    cheap = (
        "autocast to bf16 and channels_last"
        if cpu_has_bf16()
        else ("channels_last alone: this CPU has no units for bf16, and emulated it is slower")
    )
    facts = [
        *conditions(machine, threads=1),
        f"- Trials at a time: {workers} on all sides; DataLoader workers of a rival: {LOADERS}; batch {BATCH}, "
        f"validation {VALIDATION} images, SGD, lr {LR}",
        f"- {len(found)} measurements, {len(quiet)} of them begun while others used at most {machine.limit:g} cores",
        f"- The cheap rival uses {cheap}",
        *(f"- {note}" for note in notes),
    ]  # fmt: skip
    if len(quiet) < len(found):
        machine.looks.extend(m["others_used"] for m in found)  # also of earlier calls: they decide about the verdict
    explained = (
        "Trials per hour: median (min to max) over the rounds; `~`: a rate measured at fewer trials. "
        "`/ field` and so on: trials per hour of kdbench divided by those of the rival. `trial / field`: seconds of a "
        "process of the field's loop divided by those of a trial within kdbench's workers, medians."
    )
    found_verdicts = verdicts(found, max(trials), up_to, machine)
    return page("Sweeps: student trials per hour", "\n".join(facts), explained, *parts, "\n".join(found_verdicts))
