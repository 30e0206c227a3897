"""The story of a row as a person reads it: each number beside the records that it is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdbench.labels import model_label, plural, seconds_label, settings_label

TEXTS = ("label", "list", "study", "none", "literature", "reasons")  # rules of cells that are no numbers
LONG = 6  # so many numbers are written out in one line; of more, the first and the last


def print_row(story: Mapping[str, Any], console: Console) -> None:
    """Print what `explain_row` gave."""
    cells = {cell["column"]: cell for cell in story["numbers"]}
    _heading(console, f"row {story['row']}", f"{story['study']}: {story['pair']}: {story['method']} {story['student']}")
    _configuration(story, console)
    _trainings(story, cells, console)
    for name in ("scratch", "kd"):
        _difference(story, cells, name, console)
    _selection(story, console)
    _networks(story, console)
    _latency(story, cells, console)
    _failures(story, console)
    _environment(story["environment"], console)
    _cells(story, console)


def print_record(story: Mapping[str, Any], console: Console) -> None:
    """Print what `explain_record` gave."""
    spec = story["spec"]
    _heading(console, f"record {story['record']}", f"{story['study']}: {spec['phase']} of {spec['method']['name']}")
    facts = {name: story[name] for name in ("file", "sha256", "status", "error", "attempts", "started", "ended")}
    _pairs(console, {**facts, "wall time": seconds_label(story["wall_s"]), "seed": spec["seed"], **_spec(spec)})
    _title(console, "What came out")
    _pairs(console, story["result"])
    _environment(story["environment"], console)
    _title(console, "Rows that rest on it")
    _pairs(console, {row: ", ".join(roles) for row, roles in story["rows"].items()} or {"none": ""})


def _heading(console: Console, first: str, second: str) -> None:
    console.print(Text.assemble((first, "bold"), "  ", second.rstrip()))


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, "bold"))


def _say(console: Console, text: str) -> None:
    console.print(Text(f"  {text}"))


def _pairs(console: Console, facts: Mapping[str, Any]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, ""):
            table.add_row(Text(f"  {name}"), Text(str(value)))
    console.print(table)


def _grid(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[int] = (),
    whole: Sequence[int] = (),
) -> None:  # fmt: skip
    """A table. numeric: columns that are aligned on the right; whole: those that are never broken over lines."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=True)
    for number, name in enumerate(columns):
        side: Literal["left", "right"] = "right" if number in numeric else "left"
        table.add_column(Text(name), justify=side, overflow="fold", no_wrap=number in whole)
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console.print(table)


def _spec(spec: Mapping[str, Any]) -> dict[str, str]:
    """A spec in words."""
    hyper = settings_label({name: value for name, value in spec["method"].items() if name != "name"})
    return {
        "method": spec["method"]["name"] + (f": {hyper}" if hyper else ""),
        "student": model_label(spec["model"]),
        "training": settings_label(spec["train"]),
        "data": settings_label(spec["data"]),
        "teacher": spec["teacher"] or "",
        "start": spec["init"] or "",
    }


def _configuration(story: Mapping[str, Any], console: Console) -> None:
    if story["configuration"]:
        _title(console, "Configuration")
        _pairs(console, _spec(story["configuration"]))


def _trainings(story: Mapping[str, Any], cells: Mapping[str, Any], console: Console) -> None:
    """The final trainings, and the mean and the interval computed from them."""
    if not story["trainings"]:
        return _say(console, f"nothing was retrained: {cells['not_ranked_because']['value']}")
    _title(console, f"{plural(len(story['trainings']), 'training')} behind it")
    rows = []
    for key in story["trainings"]:
        record = story["records"][key]
        result = record["result"]
        rows.append([key, record["seed"], record["status"], _number(result.get("test_top1_pct")),
                     _number(result.get("val_top1_pct")), _number(result.get("test_nll")),
                     seconds_label(record["wall_s"])])  # fmt: skip
    columns = ("record", "seed", "status", "test top-1 %", "val top-1 %", "test NLL", "time")
    _grid(console, columns, rows, numeric=(1, 3, 4, 5, 6))
    cell = cells["test_top1_pct"]
    if cell["value"] is None:
        return _say(console, "mean: none, for nothing finished")
    _say(console, f"mean {_number(cell['value'])} % = ({_written(cell['numbers'], ' + ')}) / {len(cell['numbers'])}")
    low, high = (cells[f"test_top1_pct_{end}"]["value"] for end in ("low", "high"))
    if low is None:
        return _say(console, f"no interval: n = {len(cell['numbers'])}, and it needs 3")
    how = story["rules"]["interval"].partition(": ")[2]
    return _say(console, f"95 % interval [{_number(low)}, {_number(high)}]: {how}")


def _difference(story: Mapping[str, Any], cells: Mapping[str, Any], name: str, console: Console) -> None:
    """The difference to a baseline, seed by seed where it is paired."""
    cell = cells.get(f"gain_over_{name}_pct", {})
    if not cell.get("baseline"):
        return
    paired = cells[f"gain_over_{name}_pct_paired"]["value"]
    _title(
        console, f"Difference to {name} (row {cell['rows'][0]}), {'seed by seed' if paired else 'of unpaired samples'}"
    )
    sides = [list(zip(cell[keys], cell[values], strict=True)) for keys, values in
             (("records", "numbers"), ("baseline", "baseline_numbers"))]  # fmt: skip
    if paired:
        rows = [[a, _number(x), b, _number(y), f"{x - y:+.4f}"] for (a, x), (b, y) in zip(*sides, strict=True)]
        _grid(console, ("record", "test top-1 %", f"{name}'s record", "test top-1 %", "difference"), rows, (1, 3, 4))
    else:
        rows = [
            [key, _number(value), side]
            for side, found in zip((story["method"], name), sides, strict=True)
            for key, value in found
        ]
        _grid(console, ("record", "test top-1 %", "of"), rows, (1,))
    low, high = (cells[f"gain_over_{name}_pct_{end}"]["value"] for end in ("low", "high"))
    interval = "no interval: too few seeds" if low is None else f"95 % interval [{low:+.4f}, {high:+.4f}]"
    better = cells[f"better_than_{name}_probability"]["value"]
    _say(console, f"mean difference {cell['value']:+.4f}; {interval}; probability of improvement {better:.3f}")


def _selection(story: Mapping[str, Any], console: Console) -> None:
    search = story["search"]
    if not search:
        return
    _title(console, f"Chosen by '{search['rule']}' among {plural(len(search['trials']), 'search trial')}")
    _say(console, search["meaning"])
    rows = [
        ["->" if t["key"] in search["chosen"] else "", t["key"], t["repeat"], t["trial"], t["status"],
         *(_number(value) for value in t["objectives"].values()), t["student"], t["settings"]]
        for t in search["trials"]
    ]  # fmt: skip
    _grid(console, ("", "record", "repeat", "trial", "status", *search["objectives"], "student", "settings"), rows,
          numeric=(2, 3, *range(5, 5 + len(search["objectives"]))))  # fmt: skip


def _networks(story: Mapping[str, Any], console: Console) -> None:
    if not story["networks"]:
        return
    _title(console, "Networks behind it")
    rows = [
        [n["name"], n["key"], n["model"], n["method"], n["status"], _number(n["test_top1_pct"]),
         ", ".join(value[:12] for value in n["weights_sha256"])]
        for n in story["networks"]
    ]  # fmt: skip
    _grid(console, ("name", "record", "model", "method", "status", "test top-1 %", "SHA-256 of weights"), rows, (5,))


def _latency(story: Mapping[str, Any], cells: Mapping[str, Any], console: Console) -> None:
    names = [
        name for name in cells if name.startswith("latency_") and name.endswith("_ms") and cells[name].get("records")
    ]
    if not names:
        return
    _title(console, "Latency, ms (median over the records)")
    keys = cells[names[0]]["records"]
    heads = [name.removeprefix("latency_").removesuffix("_ms").replace("_", " ") for name in names]
    rows = [[key, *(_number(story["records"][key]["result"].get(name)) for name in names)] for key in keys]
    _grid(console, ("record", *heads), rows, range(1, 1 + len(names)))
    _say(console, str(cells["latency_conditions"]["value"]))


def _failures(story: Mapping[str, Any], console: Console) -> None:
    _title(console, f"Failures: {len(story['failures']) or 'none'}")
    for failure in story["failures"]:
        slot = ", ".join(
            f"{name} {value}" for name, value in failure["slot"].items() if name in ("repeat", "trial", "final")
        )
        _say(console, f"{failure['key']} {failure['phase']} {slot}: {failure['status']}: {failure['error']}")


def _environment(environment: Mapping[str, Mapping[str, Sequence[str]]], console: Console) -> None:
    """Where the trainings ran; a fact that differs between them is given with the number of records."""
    if not environment:
        return
    _title(console, "Environment")
    _pairs(console, {name: next(iter(found)) if len(found) == 1 else
                     "; ".join(f"{value} ({plural(len(keys), 'record')})" for value, keys in found.items())
                     for name, found in environment.items()})  # fmt: skip


def _cells(story: Mapping[str, Any], console: Console) -> None:
    """The cells of leaderboard.csv that hold a number; texts, counts of nothing and empty ones are in the JSON."""
    _title(console, "The numbers of leaderboard.csv")
    full = [cell for cell in story["numbers"] if cell["rule"] not in TEXTS and cell["value"] is not None]
    shown = [cell for cell in full if cell["rule"] != "count" or cell["value"]]
    rows = [[cell["column"], _number(cell["value"]), cell["rule"], _from(cell)] for cell in shown]
    _grid(console, ("column", "value", "rule", "from"), rows, whole=(0, 2))
    for rule in dict.fromkeys(cell["rule"] for cell in shown):
        _say(console, f"{rule}: {story['rules'][rule]}")


def _from(cell: Mapping[str, Any]) -> str:
    """What a cell is computed from, in a line."""
    parts = []
    if "numbers" in cell:
        parts.append(_written(cell["numbers"], ", "))
        if "baseline_numbers" in cell:
            parts.append(f"against {_written(cell['baseline_numbers'], ', ')}")
    elif "records" in cell and cell["rule"] in ("count", "list"):
        parts.append(" ".join(cell["records"]))
    elif "what" in cell:
        parts.append(cell["what"])
    if cell.get("rows"):
        parts.append(f"rows {' '.join(cell['rows'])}")
    return "; ".join(parts)


def _written(numbers: Sequence[float], joint: str) -> str:
    shown = [_number(value) for value in numbers]
    return joint.join(shown if len(shown) <= LONG else [*shown[: LONG - 2], "...", shown[-1]])


def _number(value: Any) -> str:
    """Six significant digits at least, whole numbers whole, text as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return str(int(value)) if float(value).is_integer() else f"{value:.4f}" if abs(value) >= 1 else f"{value:.6g}"
