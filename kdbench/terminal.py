"""How a run shows itself: a live table on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdbench.labels import model_label, seconds_label
from kdbench.record import Job, TrialRecord, TrialSpec, finite, metric
from kdbench.redact import printable
from kdbench.search.agenda import Agenda

Row = str
REDRAW_S = 0.5


def row_of(spec: TrialSpec) -> Row:
    """The line of the table in which a training is counted."""
    return spec.row if spec.phase in ("search", "final") else f"({spec.phase})"


def describe(spec: TrialSpec, name: str | None = None) -> str:
    """A training in a few words: `search kd repeat 0 trial 3`, `final kd seed 2`, `assistant: teacher cnn5 by kd`.

    name: of a network, in the study file.
    """
    slot = spec.slot
    if spec.phase == "search":
        return f"search {spec.row} repeat {slot['repeat']} trial {slot['trial']}"
    if spec.phase == "final":
        return f"final {spec.row} seed {slot['final']}"
    if spec.phase == "evaluation":
        return f"evaluation {spec.row} seed {slot['final']}"
    how = {"scratch": "", "checkpoint": " from a checkpoint", "ensemble": " together"}
    by = how.get(spec.method_name, f" by {spec.method_name}") if spec.phase != "latency" else ""
    named = "" if name in (None, "teacher", "source") else f"{name}: "
    return f"{named}{spec.phase} {model_label(spec.model)}{by}"


class Tally:
    """Counts by row: done, running, failed, and the best validation result so far."""

    def __init__(self, agenda: Agenda, workers: int) -> None:
        self.agenda, self.workers = agenda, workers
        self.objective = agenda.study.search.objectives[0]
        self.done: Counter[Row] = Counter()
        self.failed: Counter[Row] = Counter()
        self.best: dict[Row, float] = {}
        self.new = 0
        self.wall_s = 0.0
        for record in agenda.records.values():
            self.count(record)

    def count(self, record: TrialRecord) -> None:
        """Add a record."""
        row, value = row_of(record.spec), record.result.get(self.objective)
        self.done[row] += 1
        if record.status != "finished":
            self.failed[row] += 1
        elif value is not None and record.spec.phase == "search":
            best = max if metric(self.objective).direction == "max" else min
            self.best[row] = best(self.best.get(row, value), value)

    def left_s(self) -> float | None:
        """About how many seconds are left; None before anything has ended in this run."""
        if not self.new:
            return None
        return self.wall_s / self.new * max(self.agenda.left(), 0) / self.workers

    def table(self) -> Table:
        """The table as it stands."""
        running = Counter(row_of(spec) for spec in self.agenda.running.values())
        left = self.left_s()
        title = f"{self.agenda.study.study}: {sum(self.done.values())} done, about {self.agenda.left()} to go"
        table = Table(title=title + (f", {seconds_label(left)} left" if left is not None else ""), title_justify="left")
        for name in ("", "done", "running", "failed", f"best {self.objective}"):
            table.add_column(name, justify="left" if not name else "right")
        rows = list(dict.fromkeys([*self.done, *running]))
        for row in rows:
            best = f"{self.best[row]:.2f}" if row in self.best else ""
            label = Text(printable(row, keep=""))  # never read as markup
            table.add_row(label, str(self.done[row]), str(running[row] or ""), str(self.failed[row] or ""), best)
        return table


class LiveView:
    """The table, redrawn in place, from the thread that runs the study and at most twice a second."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self.tally = tally
        self.live = Live(console=console, auto_refresh=False)
        self._drawn = 0.0

    def __enter__(self) -> LiveView:
        self.live.start()
        self.draw()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.update(self.tally.table())
        self.live.stop()

    def draw(self) -> None:
        """Draw the table as it stands, unless it was drawn just before."""
        if time.monotonic() - self._drawn >= REDRAW_S:
            self.live.update(self.tally.table(), refresh=True)
            self._drawn = time.monotonic()

    def started(self, job: Job) -> None:
        """Show it."""
        self.draw()

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        """Show that time passes."""
        self.draw()

    def ended(self, record: TrialRecord) -> None:
        """Count it."""
        note_ended(self.tally, record)
        self.draw()


def note_ended(tally: Tally, record: TrialRecord) -> None:
    """Count a training that ended in this run."""
    tally.count(record)
    if record.spec.phase in ("search", "final"):  # what is left is of these
        tally.new += 1
        tally.wall_s += record.wall_s


class LineView:
    """One line for each training that ends (and, as JSON, for each that starts)."""

    def __init__(self, tally: Tally, out: IO[str], as_json: bool) -> None:
        self.tally, self.out, self.as_json = tally, out, as_json
        self.began = time.monotonic()

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def started(self, job: Job) -> None:
        """Say that a training starts (JSON only)."""
        if self.as_json:
            self._json({"event": "started", "key": job.spec.key, "spec": job.spec.to_json()})

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        """Say how a training goes (JSON only)."""
        if self.as_json:
            self._json({"event": "epoch", "key": key, "point": dict(point)})

    def ended(self, record: TrialRecord) -> None:
        """Say how a training ended."""
        note_ended(self.tally, record)
        if self.as_json:
            body = record.to_json()
            self._json(
                {"event": "ended", **{name: body[name] for name in ("key", "status", "result", "wall_s", "error")}}
            )
            return
        shown = {k: v for k, v in record.result.items() if k in (self.tally.objective, "test_top1_pct")}
        text = " ".join(f"{name}={value:.2f}" for name, value in shown.items())
        left = self.tally.left_s()
        name = self.tally.agenda.name_of(record.spec)
        line = (
            f"[{time.monotonic() - self.began:6.0f} s] {describe(record.spec, name)}: {record.status}"
            f"{' ' + text if text else ''} in {seconds_label(record.wall_s)}"
            f"{'' if record.error is None else ' (' + record.error + ')'}"
            f"; {self.tally.agenda.left()} to go{'' if left is None else ', ' + seconds_label(left) + ' left'}"
        )
        self.out.write(printable(line, keep="") + "\n")
        self.out.flush()

    def _json(self, value: Any) -> None:
        self.out.write(json.dumps(finite(value), allow_nan=False) + "\n")
        self.out.flush()


def view_for(tally: Tally, console: Console, as_json: bool) -> LiveView | LineView:
    """The view that suits where the output goes."""
    if console.is_terminal and not as_json:
        return LiveView(tally, console)
    return LineView(tally, console.file, as_json)
