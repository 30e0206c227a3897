"""The files of a report: what is written into a study's folder, and what is taken out of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kdbench.errors import KdbenchError
from kdbench.report import captions, manifest
from kdbench.report.exhibit import Exhibit
from kdbench.report.exhibits import exhibits
from kdbench.report.figures import pdf, png, style, svg
from kdbench.report.frames import csv, fairness_frame, leaderboard_frame, pareto_frame, parquet
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results
from kdbench.report.page import page
from kdbench.report.pareto_figure import Words, pareto_figure
from kdbench.report.render import render_markdown
from kdbench.report.search import search_frame
from kdbench.report.tex import paper, tables
from kdbench.store import write_atomic

# What the report of every study has that has searched and retrained; the exhibits' files come beside it
NAMES = ("leaderboard.csv", "leaderboard.parquet", "leaderboard.md", "leaderboard.tex", "leaderboard.html", "paper.tex",
         "fairness.csv", "fairness.parquet", "search.csv", "search.parquet", "pareto.csv", "pareto.parquet",
         "pareto.pdf", "pareto.svg", "pareto.png", manifest.NAME)  # fmt: skip
STEM = re.compile(r"[a-z][a-z0-9-]*")
OF_A_REPORT = re.compile(STEM.pattern + r"\.(csv|parquet|md|tex|html|pdf|svg|png)")


def write(folder: Path, results: Results, board: Leaderboard) -> list[Path]:
    """Write every file of the report atomically; remove those of an earlier report that no longer apply."""
    files = contents(results, board)
    files[manifest.NAME] = manifest.manifest(folder, files)
    for name in _earlier(folder) - set(files):  # a figure of records that are gone must not stay beside a table
        (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)
    return [folder / name for name in files]


def _earlier(folder: Path) -> set[str]:
    """Names of the files that a report in this folder has or can have; nothing else in it is ever touched."""
    try:
        listed = set(manifest.read_manifest(folder).report)
    except KdbenchError:  # none yet, or one that cannot be read: the fixed names are what is known
        listed = set()
    return {name for name in listed | set(NAMES) if OF_A_REPORT.fullmatch(name)}


def contents(results: Results, board: Leaderboard) -> dict[str, bytes]:
    """File name -> bytes, a function of the study and its records alone."""
    shown = exhibits(results, board)
    _check(shown)
    files: dict[str, str | bytes] = {
        **_frame_files("leaderboard", leaderboard_frame(board.rows)),
        "leaderboard.md": render_markdown(results, board, shown),
        "leaderboard.tex": tables(results, board, shown),
        "paper.tex": paper(results, board, shown),
        **_frame_files("fairness", fairness_frame(board.fairness)),
    }
    trials = search_frame(results)
    if not trials.empty:
        files |= _frame_files("search", trials)
    if board.has_final:
        files |= _pareto_files(results, board)
    for exhibit in shown:
        files |= exhibit_files(exhibit)
    drawings = {exhibit.name: str(files[f"{exhibit.name}.svg"]) for exhibit in shown if exhibit.figure}
    files["leaderboard.html"] = page(results, board, shown, drawings)
    return {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}


def exhibit_files(exhibit: Exhibit) -> dict[str, str | bytes]:
    """`<name>.csv` and `.parquet` of an exhibit with a frame, `.pdf`, `.svg` and `.png` of one with a figure."""
    files = {} if exhibit.frame is None else _frame_files(exhibit.name, exhibit.frame)
    if exhibit.figure is not None:
        with style():
            figure = exhibit.figure()
            files |= {f"{exhibit.name}.pdf": pdf(figure), f"{exhibit.name}.svg": svg(figure)}
            files |= {f"{exhibit.name}.png": png(figure)}
    return files


def _frame_files(stem: str, frame: pd.DataFrame) -> dict[str, str | bytes]:
    return {f"{stem}.csv": csv(frame), f"{stem}.parquet": parquet(frame)}


def _pareto_files(results: Results, board: Leaderboard) -> Mapping[str, str | bytes]:
    """The Pareto figure; its words stand in the SVG and the PNG, not in the PDF, for which a paper has a caption."""
    title = str(results.study.get("question") or results.study.get("study", ""))
    with style():
        drawing = pareto_figure(board, results.tables, results.methods, Words(title, captions.figure(results, board)))
        files = _frame_files("pareto", pareto_frame(board))
        with drawing.bare() as part:
            files |= {"pareto.pdf": pdf(drawing.figure, part)}
        return {**files, "pareto.svg": svg(drawing.figure), "pareto.png": png(drawing.figure)}


def _check(shown: Sequence[Exhibit]) -> None:
    """Raise ValueError for an exhibit whose files would take those of another part of the report."""
    taken = {name.partition(".")[0] for name in NAMES}
    for exhibit in shown:
        if not STEM.fullmatch(exhibit.name) or exhibit.name in taken:
            raise ValueError(
                f"exhibit '{exhibit.name}': a name has small letters, digits and hyphens, and is none of "
                f"{', '.join(sorted(taken))}. Give it another name."
            )
        taken.add(exhibit.name)
