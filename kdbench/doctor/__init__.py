"""`kdbench doctor`: what is wrong with a machine, an installation or a study, and how to mend it. Changes nothing.

finding.py is one line of the answer; packages.py, machine.py, services.py and needs.py look; this module asks them all
and prints.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdbench.doctor.finding import Finding, Level
from kdbench.doctor.machine import clock, disks, hardware, memory
from kdbench.doctor.needs import Needs
from kdbench.doctor.packages import torchvision, versions
from kdbench.doctor.services import leftovers, mlflow, plugins, ray
from kdbench.redact import shown

WIDTH = 120  # where the output is no terminal
STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def run(study_file: Path | None, results: Path, as_json: bool) -> int:
    """Look at everything and say what was found; return the exit status, 1 if there is a problem."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if as_json:
        found = examine(study_file, results)
    else:
        with console.status("looking at this machine, and starting Ray once ..."):
            found = examine(study_file, results)
    if as_json:
        print(json.dumps([finding.to_json() for finding in found], indent=1))
    else:
        show(found, console)
    return int(any(finding.level == "problem" for finding in found))


def examine(study_file: Path | None, results: Path) -> list[Finding]:
    """All findings, by area. What waits for other processes is done side by side."""
    began = (time.time(), time.monotonic())
    needs = Needs.of(study_file, results)
    slow: list[Callable[[], Iterable[Finding]]] = [
        lambda: ray(needs.ray_address, needs.ray),
        lambda: mlflow(needs.folder, needs.mlflow),
    ]
    with ThreadPoolExecutor(len(slow)) as pool:
        waiting = [pool.submit(lambda look=look: list(look())) for look in slow]  # type: ignore[misc]
        found = [
            *versions(needs.extras),
            *torchvision(),
            *hardware(),
            *memory(),
            *disks({"results": results, "temporary files": Path(tempfile.gettempdir())}),
            *plugins(),
            *needs.findings(),
            *leftovers(results),
        ]
        found += [finding for future in waiting for finding in future.result()]
    return sorted([*found, *clock(*began, needs.records)], key=lambda finding: AREAS.index(finding.area))


AREAS = ("study", "packages", "plug-ins", "hardware", "memory", "disk", "data", "Ray", "MLflow", "processes", "clock")


def show(found: list[Finding], console: Console) -> None:
    """Print findings as a table: what is to be done stands below each that is not all right."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for one in found:
        text = Text(shown(one.found))
        if one.todo:
            text.append(f"\n-> {shown(one.todo)}", style="bold")
        area = "" if one.area == before else one.area
        table.add_row(Text(one.level, STYLES[one.level]), area, text)
        before = one.area
    console.print(table)
    problems, warnings = (sum(one.level == level for one in found) for level in ("problem", "warning"))
    console.print(Text(f"{problems} problems, {warnings} warnings"))
