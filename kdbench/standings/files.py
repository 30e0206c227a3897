"""The files of the public leaderboard."""

from __future__ import annotations

import json
from pathlib import Path

from kdbench.report.frames import csv, parquet
from kdbench.standings.frame import standings_frame, standings_json
from kdbench.standings.merge import Standings
from kdbench.standings.render import render
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


def write(standings: Standings, out: Path) -> list[Path]:
    """Write every file into a folder, each whole or not at all; return their paths."""
    files = contents(standings)
    for name, data in files.items():
        write_atomic(out / name, data)
    return [out / name for name in files]
