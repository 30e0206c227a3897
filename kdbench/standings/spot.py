"""Which row of a submission is trained again to see whether it holds: one by lot, and the same one for everybody."""

from __future__ import annotations

import hashlib

from kdbench.report.leaderboard import Row
from kdbench.standings.entry import Entry


def spot_check(entry: Entry, limit_s: float) -> Row | None:
    """A row of an entry of which one training, with the networks that it needs, took at most `limit_s` seconds.

    The lot falls by a hash of all that the entry says: authors cannot know it before they have their numbers, and
    everybody draws the same. Rows of plug-ins are left out, for nothing that came with a submission is run, and so are
    rows that need a checkpoint. None where no row is left.
    """
    able = [row for row in entry.board.rows if row.kind == "student" and row.scores and cost_s(entry, row) <= limit_s]
    return min(able, key=lambda row: hashlib.sha256(f"{entry.digest} {row.id}".encode()).digest(), default=None)


def cost_s(entry: Entry, row: Row) -> float:
    """Recorded wall time in seconds of the longest training of a row and of the networks behind it; infinity where one
    of them cannot be trained here."""
    own = [entry.results.by_key[key] for key in row.keys]
    behind = entry.results.behind(key for record in own for key in (record.spec.teacher, record.spec.init)).values()
    foreign = any(record.environment.get("plugins") for record in (*own, *behind))
    if foreign or any(record.spec.method_name == "checkpoint" for record in behind):
        return float("inf")
    return max(record.wall_s for record in own) + sum(record.wall_s for record in behind)
