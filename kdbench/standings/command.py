"""`kdbench leaderboard` and `kdbench compare`: read, check, put together, write, and say what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kdbench.errors import KdbenchError
from kdbench.standings.compare import compare, exhibit
from kdbench.standings.entry import Entry, read_all
from kdbench.standings.files import comparison_contents, contents, write
from kdbench.standings.merge import Standings, merge
from kdbench.standings.render import render_comparison
from kdbench.standings.spot import spot_check
from kdbench.standings.view import counts

REFUSED = 1

Say = Callable[..., object]  # of a line of text; err: to standard error


def run(paths: Sequence[Path], out: Path | None, *, check: bool, spot_s: float | None, say: Say) -> int:
    """Do what is asked for; return the exit status: 1 if `check` and anything is refused.

    spot_s: also print one row of each entry that can be trained again in so many seconds. Raise KdbenchError where
    nothing is left to show.
    """
    entries, refused = read_all(paths)
    for one in refused:
        say(str(one), err=True)
    if not entries and not check:
        raise KdbenchError("none of the folders holds a study or a submission that stands, so there is no leaderboard.")
    standings = merge(entries, refused)
    _tell(standings, say)
    if out is not None and entries:
        files = write(contents(standings), out)
        say(f"Leaderboard: {out / 'standings.html'} ({len(files)} files in {out})", err=True)
    for entry in entries if spot_s is not None else ():
        _draw(entry, spot_s or 0.0, say)
    return REFUSED if check and refused else 0


def compare_studies(paths: Sequence[Path], out: Path | None, say: Say) -> None:
    """Write studies side by side, or print their table as Markdown where there is no folder for it.

    Raise KdbenchError where one of them cannot be read, or there are too few.
    """
    entries, refused = read_all(paths)
    if refused:
        raise KdbenchError("\n".join(map(str, refused)))
    shown = exhibit(compare(entries))
    if out is None:
        say(render_comparison("md", shown))
        return
    files = write(comparison_contents(shown), out)
    say(f"Comparison: {out / 'compare.md'} ({len(files)} files in {out})", err=True)


def _tell(standings: Standings, say: Say) -> None:
    for sentence in (*standings.notices, *map(str, standings.comparisons)):
        say(sentence, err=True)
    say(f"{counts(standings)}; {len(standings.refused)} refused.", err=True)


def _draw(entry: Entry, limit_s: float, say: Say) -> None:
    """Print the row that is to be trained again, as `kdbench reproduce` takes it: alone on standard output."""
    row = spot_check(entry, limit_s)
    if row is None:
        say(f"{entry.label}: no row that can be trained again within {limit_s:.0f} s.", err=True)
    else:
        say(f"{entry.folder}/{row.id}")
