"""What independent re-runs say about a row: claimed, verified, or not reproduced.

A re-run counts if somebody who is no author of the submission put their name to it, if it was made from the very
records that are shown, and if its verdict follows from its numbers. That the named person ran it is their word: files
cannot prove it. The pull request that brings the file is where people look.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from kdbench.labels import plural, processor_label
from kdbench.record import PROTOCOL
from kdbench.report.leaderboard import SCORE, Row
from kdbench.report.reproduction import Reproduction, judged
from kdbench.standings.entry import Entry
from kdbench.submission.schema import problems_of

CLAIMED, NOT_REPRODUCED = "claimed", "not reproduced"
BIT_EQUAL, INSIDE = "verified (bit-equal)", "verified (inside interval)"
# The first that is found counts: what is doubtful before what is certain, but bit-equality before an interval.
WORDS = {"outside": NOT_REPRODUCED, "bit-equal": BIT_EQUAL, "inside": INSIDE}


Reproduced = Sequence[tuple[str, Reproduction]]  # by file name


@dataclass(frozen=True)
class Status:
    """A row's standing in a word, and what it rests on: one sentence for each re-run."""

    word: str = CLAIMED
    notes: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether an independent re-run agrees and none disagrees."""
        return self.word in (BIT_EQUAL, INSIDE)


def read_reproductions(entry: Entry) -> tuple[list[tuple[str, Reproduction]], list[str]]:
    """The re-runs of an entry that count, by file name, and one sentence for each file that does not."""
    good, bad = [], []
    rows = {row.id: row for row in entry.board.rows}
    for name, data in entry.reproductions.items():
        try:
            made = Reproduction.model_validate_json(data)
        except ValidationError as error:
            bad.append(f"{name} does not count: {'; '.join(problems_of(error))}")
            continue
        problem = _problem(made, entry, rows.get(made.row))
        if problem is None:
            good.append((name, made))
        else:
            bad.append(f"{name} does not count: {problem}")
    return good, bad


def status(row: Row, good: Reproduced, authors: Collection[str] = ()) -> Status:
    """The status of a row: one re-run outside of the interval outweighs all that agree, until it is explained.

    authors: of all submissions that hold these records; a re-run by one of them is not independent.
    """
    known = set(map(_named, authors))
    own = [(name, made) for name, made in good if made.row == row.id and _named(made.by) not in known]
    verdicts = {made.verdict for _, made in own}
    word = next((word for verdict, word in WORDS.items() if verdict in verdicts), CLAIMED)
    return Status(word, tuple(_note(row, name, made) for name, made in own))


def _problem(made: Reproduction, entry: Entry, row: Row | None) -> str | None:
    """Why a re-run does not count, or None."""
    if made.study != entry.study or row is None:
        return f"row {made.row} of study '{made.study}' is not among the rows of {entry.label}"
    if made.protocol != PROTOCOL:
        return f"made under protocol {made.protocol}, not {PROTOCOL}"
    if not _named(made.by):
        return "it names nobody in 'by', so it cannot be independent"
    if _named(made.by) in map(_named, entry.authors):
        return f"{made.by} is an author of {entry.label}"
    keys = [seed.key for seed in made.seeds]
    known = set(row.keys) & set(made.record_sha256)
    if not keys or len(set(keys)) < len(keys) or not set(keys) <= known:
        return "its seeds are not trainings of the row"
    changed = sorted(k for k, digest in made.record_sha256.items() if entry.record_sha256.get(k) != digest)
    if changed:
        return f"record_sha256.{changed[0]}: made from another file than the record that is shown"
    return _wrong_numbers(made, entry, row)


def _wrong_numbers(made: Reproduction, entry: Entry, row: Row) -> str | None:
    """Why its verdict does not follow from its numbers and the row's, or None."""
    for seed in made.seeds:
        record = entry.results.by_key[seed.key]
        recorded = record.result.get(SCORE) if record.status == "finished" else None
        if seed.recorded_top1_pct != recorded:
            return f"seed {seed.seed}: recorded_top1_pct is {seed.recorded_top1_pct}, the record has {recorded}"
        if seed.equal and seed.reproduced_top1_pct != recorded:
            return f"seed {seed.seed}: called equal, but {seed.reproduced_top1_pct} is not {recorded}"
    verdict, why, _ = judged(list(row.scores.values()), made.seeds)
    return None if verdict == made.verdict else f"verdict: '{made.verdict}', but its numbers say '{verdict}' ({why})"


def _named(name: str) -> str:
    return " ".join(name.split()).casefold()


def _note(row: Row, name: str, made: Reproduction) -> str:
    words = f"{made.verdict}: {len(made.seeds)} of {plural(len(row.keys), 'seed')} trained again by {made.by}"
    then, now = (_processor(around) for around in (made.environment.recorded, made.environment.reproduced))
    machine = f"on {now}, the same kind of processor" if then == now else f"on {now}, recorded on {then}"
    return f"{words} {machine} ({name})"


def _processor(around: dict[str, object]) -> str:
    hardware = around.get("hardware")
    found = hardware if isinstance(hardware, dict) else {}
    name = (str(around.get("device", "")).startswith("cuda") and found.get("gpu")) or found.get("cpu")
    return processor_label(str(name)) if name else "an unknown machine"
