"""What story.py tells, for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdbench.labels import plural, seconds_label, settings_label
from kdbench.status import SHORT

POINTS = 12  # of a curve that are shown: the first, the last, and some between
CURVES = ("train_loss", "lr", "val_top1_pct", "val_nll", "epoch_wall_s")  # others stand in the JSON


def brief_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each training."""
    yield f"{plural(len(rows), 'training')}; all about one: kdbench logs {rows[0]['key'][:SHORT]}"
    wide = max(len(str(row["training"])) for row in rows)
    for row in rows:
        took = "" if row["wall_s"] is None else seconds_label(row["wall_s"])
        tried = f", {row['attempts']} attempts" if (row["attempts"] or 0) > 1 else ""
        error = f": {row['error']}" if row["error"] else ""
        yield f"{row['key'][:SHORT]}  {row['training']!s:{wide}}  {row['status']} {took}{tried}{error}"


def story_lines(story: Mapping[str, Any]) -> Iterator[str]:
    """What `story_of` found, for a person."""
    yield f"{story['training'] or 'a training'}, key {story['key']}, of {story['folder']}"
    if story["model"]:
        settings = settings_label(story["settings"])
        yield f"model      {story['model']}{'; ' + settings if settings else ''}"
    yield f"status     {story['status']}"
    if story["damaged"]:
        yield f"record     {story['damaged']}"
    if story["record"]:
        yield from _record_lines(story["record"])
    if story["under_way"]:
        yield from _work_lines(story["under_way"])
    yield from _curve_lines(story["curves"])
    for one in story["superseded"]:
        error = f": {one['error']}" if one["error"] else ""
        yield f"before     {one['status']}, ended {one['ended']}{error}; kept as {one['file']}"
    yield from (f"set aside  {name}: damaged" for name in story["quarantined"])
    if story["record"] and story["record"]["status"] != "finished":
        yield f"again      kdbench run STUDY_FILE --rerun {story['key'][:SHORT]}"


def _record_lines(record: Mapping[str, Any]) -> Iterator[str]:
    yield f"ended      {record['ended']}, after {seconds_label(record['wall_s'])}"
    yield from _start_lines(record.get("starts") or [record["started"]], record["attempts"])
    yield from (f"again for  {reason}" for reason in record.get("retries", []))
    if record.get("checkpoint_set_aside"):
        yield f"damaged    {record['checkpoint_set_aside']}"
    if record["error"]:
        yield f"error      {record['error']}"
    if record["traceback"]:
        yield "traceback"
        yield from (f"    {line}" for line in str(record["traceback"]).rstrip().splitlines())
    if record["result"]:
        yield f"result     {settings_label(record['result'])}"


def _start_lines(starts: list[str], attempts: int) -> Iterator[str]:
    for number, start in enumerate(starts, start=1):
        yield f"started    {start}{f' (attempt {number} of {attempts})' if attempts > 1 else ''}"


def _work_lines(work: Mapping[str, Any]) -> Iterator[str]:
    yield from _start_lines(work["starts"], len(work["starts"]))
    state = work["checkpoint"]
    if state is None:
        yield "checkpoint none yet: it would start from the beginning"
    elif "damaged" in state:
        yield f"checkpoint damaged, so it would start from the beginning: {state['damaged']}"
    else:
        age, size = seconds_label(state["age_s"]), state["bytes"] / 1e6
        yield f"checkpoint after epoch {state.get('epochs_done', '?')}, {age} old, {size:.1f} MB"
    for what, text in work["notes"].items():
        yield f"note       {what}: {' '.join(text.split())}"
    for number, lines in work["processes"].items():
        yield f"process {number}" if lines else f"process {number}  has said nothing"
        yield from (f"    {line}" for line in lines)


def _curve_lines(curves: Mapping[str, Any]) -> Iterator[str]:
    """Curves as a small table, one line for an epoch."""
    known = {name: values for name, values in curves.items() if isinstance(values, list) and values}
    columns = {name: known[name] for name in CURVES if name in known} or known
    if not columns:
        return
    epochs = max(len(values) for values in columns.values())
    step = max(1, -(-(epochs - 1) // (POINTS - 1)))
    chosen = sorted({*range(0, epochs, step), epochs - 1})
    wide = {name: max(len(name), 9) for name in columns}
    yield "curves     epoch  " + "  ".join(f"{name:>{wide[name]}}" for name in columns)
    for epoch in chosen:
        cells = (_number(values[epoch]) if epoch < len(values) else "" for values in columns.values())
        yield f"{'':11}{epoch + 1:5}  " + "  ".join(
            f"{cell:>{width}}" for cell, width in zip(cells, wide.values(), strict=True)
        )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "none"
