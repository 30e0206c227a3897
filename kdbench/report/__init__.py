"""The report of a study, made from its records alone: tables, figures, and what they say about themselves.

`write_report(folder)` writes every file; `summary(folder)` is a short table for a terminal; `write_and_sum_up(folder)`
does both. All are deterministic: the same records give the same bytes. Nothing here imports torch, Ray or MLflow, and
pandas, scipy, moocore, jinja2 and matplotlib (the extra `report`) are imported at the first use.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from kdbench.errors import KdbenchError

__all__ = ["summary", "write_and_sum_up", "write_report"]


def write_report(folder: Path) -> list[Path]:
    """Write the report into a study's folder and return the paths of its files.

    The leaderboard (`.csv`, `.parquet`, `.md`, `.tex`, `.html`), `paper.tex`, fairness, search (where trials were
    searched), the Pareto figure (where a configuration was retrained), every exhibit, and `manifest.json`, which lists
    them; what an earlier report left and this one does not have is removed. Raise KdbenchError for a folder without a
    study or without records, RecordError that names a record that cannot be read.
    """
    return write_and_sum_up(folder)[0]


def write_and_sum_up(folder: Path) -> tuple[list[Path], str]:
    """What `write_report` and `summary` return, from one reading of the records. Raises as `write_report` does."""
    results = _module("load").load(Path(folder))
    board = _module("leaderboard").leaderboard(results)
    return list(_module("files").write(Path(folder), results, board)), str(_module("terminal").text(results, board))


def summary(folder: Path) -> str:
    """The leaderboard as a few lines of plain text, best first, or the search where nothing was retrained yet.

    Raises as `write_report` does.
    """
    results = _module("load").load(Path(folder))
    return str(_module("terminal").text(results, _module("leaderboard").leaderboard(results)))


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"kdbench.report.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kdbench"):
            raise
        raise KdbenchError(f"the report needs {error.name}: pip install 'kdbench[report]'.") from error
