"""The files of the public leaderboard, and of a comparison of studies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kdbench.report.exhibit import Exhibit
from kdbench.report.files import exhibit_files
from kdbench.report.frames import csv, parquet
from kdbench.standings.frame import standings_frame, standings_json
from kdbench.standings.merge import Standings
from kdbench.standings.render import render, render_comparison
from kdbench.store import write_atomic

NAMES = ("standings.csv", "standings.parquet", "standings.md", "standings.tex", "standings.html", "standings.json")


def contents(standings: Standings) -> dict[str, bytes]:
    """File name -> bytes: a function of the entries alone."""
    frame = standings_frame(standings)
    text = {
        "standings.csv": csv(frame),
        "standings.json": json.dumps(standings_json(standings), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        **{f"standings.{name}": render(name, standings) for name in ("md", "tex", "html")},
    }
    files = {name: content.encode() for name, content in text.items()} | {"standings.parquet": parquet(frame)}
    return {name: files[name] for name in NAMES}


def comparison_contents(shown: Exhibit) -> dict[str, bytes]:
    """File name -> bytes of a comparison: a function of the studies alone."""
    pages = {f"{shown.name}.{name}": render_comparison(name, shown) for name in ("md", "tex")}
    files = {**pages, **exhibit_files(shown)}
    return {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}


def write(files: Mapping[str, bytes], out: Path) -> list[Path]:
    """Write every file into a folder, each whole or not at all; return their paths."""
    for name, data in files.items():
        write_atomic(out / name, data)
    return [out / name for name in files]
