"""The files of a report: what is written into a study's folder, and what is taken out of it."""

from __future__ import annotations

from pathlib import Path

from kdbench.report import captions
from kdbench.report.figures import Words, pareto_figures
from kdbench.report.frames import csv, fairness_frame, leaderboard_frame, pareto_frame
from kdbench.report.leaderboard import leaderboard
from kdbench.report.load import Results, load
from kdbench.report.render import render
from kdbench.report.search import search_frame
from kdbench.store import write_atomic

NAMES = ("leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html", "fairness.csv", "search.csv",
         "pareto.csv", "pareto.svg", "pareto.png")  # fmt: skip


def write(folder: Path) -> list[Path]:
    """Write every file of the report atomically; remove those of an earlier report that no longer apply."""
    files = contents(load(folder))
    for name in NAMES:
        if name in files:
            write_atomic(folder / name, files[name])
        else:  # a figure of records that are gone must not stay beside a table that lacks them
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in NAMES if name in files]


def contents(results: Results) -> dict[str, bytes]:
    """File name -> bytes, a function of the study and its records alone."""
    board = leaderboard(results)
    files: dict[str, str | bytes] = {
        "leaderboard.csv": csv(leaderboard_frame(board.rows)),
        "fairness.csv": csv(fairness_frame(board.fairness)),
    }
    trials = search_frame(results)
    if not trials.empty:
        files["search.csv"] = csv(trials)
    inline = ""
    if board.has_final:
        words = Words(
            str(results.study.get("question") or results.study.get("study", "")), captions.figure(results, board)
        )
        files["pareto.csv"] = csv(pareto_frame(board))
        figures = pareto_figures(board, results.tables, results.methods, words)
        files["pareto.svg"], files["pareto.png"], inline = figures.svg, figures.png, figures.inline
    for name in ("md", "tex", "html"):
        files[f"leaderboard.{name}"] = render(name, results, board, inline)
    return {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
