"""Hold a submission against its own records: schema, hashes, keys, what the study asks for, and the claimed rows.

All that can be known from the files alone is checked here. Records that were forged as a whole, hashes and claims
included, pass: only an independent re-run can tell (kdbench.standings.status).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdbench import strict_json
from kdbench.errors import KdbenchError, RecordError, listed
from kdbench.labels import plural
from kdbench.record import PROTOCOL, TrialRecord
from kdbench.report.leaderboard import SCORE, Leaderboard, leaderboard
from kdbench.report.load import Results, load
from kdbench.store import record_of
from kdbench.submission.pack import DECIMALS, claims
from kdbench.submission.privacy import findings
from kdbench.submission.schema import FOLDER_OF_REPRODUCTIONS, NAME, REQUIRED, RowClaim, Submission, read_submission

BESIDE = ("README.md", "LICENSE")  # what may lie there and is not looked at
TOLERANCE = 1.5 * 10**-DECIMALS  # two roundings of one number differ by less, whatever machine made them
SHOWN = 8


class SubmissionError(KdbenchError):
    """A submission that is refused. Holds every problem found, each with file and field."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        super().__init__("; ".join(problems[:SHOWN]) + more)


@dataclass(frozen=True)
class Checked:
    """A submission that holds, with its records and the leaderboard that they give.

    unchecked: what could not be checked here, in words.
    """

    submission: Submission
    results: Results
    board: Leaderboard
    unchecked: tuple[str, ...] = ()


def check(folder: Path) -> Checked:
    """Check the submission in a folder. Raise SubmissionError that names every file and field that does not hold."""
    try:
        submission = read_submission(folder)
    except KdbenchError as error:
        raise SubmissionError([str(error)]) from error
    if submission.protocol != PROTOCOL:
        raise SubmissionError([
            f"{NAME}: protocol: made under protocol {submission.protocol}, and this leaderboard has protocol "
            f"{PROTOCOL}: their numbers mean different things. Run the study again with this kdbench"
        ])  # fmt: skip
    _stop([*_files(folder, submission)])
    _stop([*_readable(folder, submission)])
    results = loaded(folder)
    try:
        _stop([*_sound(folder, results)])
        asked, unchecked = _asked(results)
        _stop(asked)
        board = leaderboard(results)
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # a study of a shape that kdbench never wrote
        raise SubmissionError([f"study.json: a value of a wrong kind ({type(error).__name__}: {error})"]) from error
    _stop([*_claims(submission, board)])
    return Checked(submission, results, board, unchecked)


def loaded(folder: Path) -> Results:
    """The records of a folder. Raise SubmissionError whose text names files from that folder on."""
    try:
        return load(folder)
    except KdbenchError as error:
        raise SubmissionError([str(error).replace(f"{folder}/", "").rstrip(".")]) from error


def _stop(problems: list[str]) -> None:
    if problems:
        raise SubmissionError(problems)


def _files(folder: Path, submission: Submission) -> Iterator[str]:
    """Files that are missing, changed, not named, or no plain files."""
    for name in REQUIRED:
        if name not in submission.files:
            yield f"{NAME}: files: {name} is not named"
    for name, digest in submission.files.items():
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            yield f"{name}: not a plain file"
        elif not path.exists():
            yield f"{name}: named in {NAME}, but not there"
        elif path.stat().st_size > strict_json.MAX_BYTES:
            yield f"{name}: {path.stat().st_size} bytes. Allowed: up to {strict_json.MAX_BYTES}"
        elif (found := hashlib.sha256(path.read_bytes()).hexdigest()) != digest:
            yield f"{name}: changed since it was packed (SHA-256 {found[:12]}, {NAME} has {digest[:12]})"
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        known = name in submission.files or name in (NAME, *BESIDE)
        if not known and not (path.parent == folder / FOLDER_OF_REPRODUCTIONS and path.suffix == ".json"):
            yield f"{name}: not named in {NAME}"
        elif path.is_symlink():
            yield f"{name}: a symbolic link"


def _readable(folder: Path, submission: Submission) -> Iterator[str]:
    """Files that are no JSON or no records, and what in them does not belong in public."""
    again = sorted((folder / FOLDER_OF_REPRODUCTIONS).glob("*.json"))
    for name in (*submission.files, *(f"{FOLDER_OF_REPRODUCTIONS}/{path.name}" for path in again)):
        try:
            value = strict_json.read(folder / name)
            if name.startswith("records/"):
                record_of(value)
        except (ValueError, TypeError, KeyError, RecordError) as error:
            yield f"{name}: {str(error).rstrip('.')}"
        else:
            yield from map(str, findings(name, value))
    yield from map(str, findings(NAME, submission.to_json()))


def _sound(folder: Path, results: Results) -> Iterator[str]:
    """What records say that cannot be: of their data, their curves, and accuracies that no test split allows."""
    splits = strict_json.read(folder / "splits.json")
    own = splits.get("data", {}) if isinstance(splits, Mapping) else {}
    if not isinstance(own, Mapping) or not {"hash", "test_hash", "test"} <= set(own):
        yield "splits.json: data: lacks hash, test_hash or test"
        return
    for record in results.records:
        if record.spec.phase == "final":
            name = f"records/{record.key}.json"
            for kind, value in (("data_hash", own["hash"]), ("test_hash", own["test_hash"])):
                found = record.environment.get(kind)
                if found is not None and found != value:
                    yield f"{name}: environment.{kind}: {str(found)[:12]}, but splits.json has {str(value)[:12]}"
            if record.status == "finished":
                yield from (f"{name}: {problem}" for problem in _impossible(record, own["test"]))


def _impossible(record: TrialRecord, images: Any) -> Iterator[str]:
    """A test accuracy is a whole number of images (the GRIM test, Brown and Heathers 2017), and the last point of a
    curve is the result."""
    score = record.result.get(SCORE)
    if not isinstance(score, (int, float)) or not 0 <= score <= 100:
        yield f"result.{SCORE}: {score!r}. Allowed: a number from 0 to 100"
        return
    if isinstance(images, int) and images > 0:
        right = score / 100 * images
        if abs(right - round(right)) > 1e-6 * max(1, images):
            yield f"result.{SCORE}: {score:.4f} % of {images} test images is {right:.2f} images, no whole number"
    for name, curve in record.curves.items():
        last, result = curve[-1] if curve else None, record.result.get(name)
        if last is not None and result is not None and not math.isclose(last, result, rel_tol=1e-9, abs_tol=1e-9):
            yield f"result.{name}: {result}, but curves.{name} ends with {last}"


def _asked(results: Results) -> tuple[list[str], tuple[str, ...]]:
    """Final trainings that the study does not ask for: of other seeds, or of a configuration that its rule on
    validation did not choose. With what could not be checked, because its code is not here."""
    from kdbench.search.agenda import Agenda
    from kdbench.study.schema import Study

    stored = {name: value for name, value in results.study.items() if name in Study.model_fields}
    foreign = sorted({name for r in results.records for name in r.environment.get("plugins", {})})
    try:
        study = Study.model_validate(stored)
        current = Agenda(study, results.by_key, lambda key: True).current()
    except (KdbenchError, ValidationError) as error:
        if foreign:
            return [], (f"whether its records are what its study asks for, for want of {listed(foreign)}",)
        count = error.error_count() if isinstance(error, ValidationError) else 1
        return [f"study.json: not a study of this kdbench ({plural(count, 'field')}): {_first(error)}"], ()
    finals = {record.key for record in results.phase("final")}
    odd = sorted(finals - set(current["final"]))
    left = [f"current.json: does not name {plural(results.left_out, 'record')} of the folder"] * bool(results.left_out)
    return left + [
        f"records/{key}.json: the study does not ask for this training: another seed, or a configuration that its "
        "selection rule did not choose"
        for key in odd
    ], ()


def _first(error: KdbenchError | ValidationError) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return str(error)


def _claims(submission: Submission, board: Leaderboard) -> Iterator[str]:
    """Claimed rows that the records do not give, and rows that they give and nobody claims."""
    given = {row.id: row for row in claims(board)}
    versions = f" (made by kdbench {listed(submission.kdbench)})"
    for number, claim in enumerate(submission.rows):
        row = given.pop(claim.id, None)
        if row is None:
            yield f"{NAME}: rows.{number}: {claim.method} ({claim.id}) is in no record"
            continue
        for field, claimed, given_ in _differing(claim, row, labels=not submission.plug_ins):
            yield f"{NAME}: rows.{number}.{field}: {claim.method} claims {claimed}, its records give {given_}{versions}"
    for row in given.values():
        yield f"{NAME}: rows: {row.method} {row.student} ({row.id}) is in the records, but not claimed"


def _differing(claim: RowClaim, row: RowClaim, *, labels: bool) -> Iterator[tuple[str, object, object]]:
    """Fields in which a claim differs. labels: of students too, which need the code of a plug-in to be the same."""
    for field in ("pair", "kind", "method", *(("student",) if labels else ()), "n", "test_top1_pct", "low", "high"):
        one, other = getattr(claim, field), getattr(row, field)
        close = isinstance(one, float) and isinstance(other, float) and abs(one - other) <= TOLERANCE
        if one != other and not close:
            yield field, one, other
