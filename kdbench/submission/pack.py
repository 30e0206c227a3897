"""Make a submission out of a study's folder: its records, without weights, paths and secrets."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdbench
from kdbench import strict_json
from kdbench.errors import KdbenchError, listed
from kdbench.labels import plural, processor_label
from kdbench.record import PROTOCOL
from kdbench.report.leaderboard import Leaderboard, leaderboard
from kdbench.report.load import Results, load
from kdbench.store import write_atomic, write_json
from kdbench.submission.privacy import Finding, findings, without_findings
from kdbench.submission.schema import NAME, REQUIRED, RowClaim, Submission, submission_from

DECIMALS = 6
# Where a study ran is no part of what it asked, and may name a server: the defaults stand in a submission.
ELSEWHERE: dict[str, dict[str, Any]] = {"resources": {"ray_address": None}, "track": {"mlflow": "off"}}


@dataclass(frozen=True)
class About:
    """What the records do not know: how the submission is called, by whom it is, and where to read about it."""

    name: str
    authors: Sequence[str]
    url: str | None = None
    code: str | None = None
    contact: str | None = None


def pack(folder: Path, about: About, out: Path, *, redact: bool = False) -> Submission:
    """Write a submission of a study's folder to a new folder.

    redact: take absolute paths and secrets out of the error lines and environments of records; what is part of a spec
    cannot be taken out, because the record's key is a hash of it. Raise KdbenchError for a study without a retrained
    row or without its splits, for anything that does not belong in public, and for a folder that holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KdbenchError(f"{out}: holds something already. Give --out the name of a new folder.")
    results = load(folder)
    files, touched = _files(folder, results, redact)
    with tempfile.TemporaryDirectory() as place:  # all or nothing: a submission is checked before it is there
        draft = Path(place)
        for name, data in files.items():
            write_atomic(draft / name, data, durable=False)
        packed = load(draft)
        facts = {
            **vars(about), "authors": tuple(about.authors), "study": str(results.study.get("study", "study")),
            "protocol": PROTOCOL, **surroundings(packed), "rows": claims(leaderboard(packed)),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
            "left_out": results.left_out, "redacted": tuple(touched),
        }  # fmt: skip
    submission = _complete(submission_from(facts), folder)
    for name, data in files.items():
        write_atomic(out / name, data, durable=False)  # all of it can be packed again
    write_json(out / NAME, submission.to_json())
    return submission


def _complete(submission: Submission, folder: Path) -> Submission:
    if not any(row.kind == "student" and row.n for row in submission.rows):
        raise KdbenchError(f"{folder}: no row was retrained and tested yet. Run the study to its end: kdbench run.")
    if submission.plug_ins and submission.code is None:
        names = listed(plug_in.name for plug_in in submission.plug_ins)
        raise KdbenchError(f"{folder}: made with plug-ins ({names}). Say where their source is: --code https://...")
    return submission


def _files(folder: Path, results: Results, redact: bool) -> tuple[dict[str, bytes], list[str]]:
    """The files of a submission by name, and the fields that were redacted. Raise KdbenchError for what is private."""
    names = [*REQUIRED, *(["current.json"] if (folder / "current.json").exists() else [])]
    names += [f"records/{record.key}.json" for record in results.records]
    files, touched, private = {}, [], []
    for name in names:
        data = _read(folder / name)
        value = strict_json.loads(data)
        if name == "study.json":
            value = without_places(value)
            data = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
        found = list(findings(name, value))
        if redact and name.startswith("records/"):
            removed = [finding for finding in found if not _decides_key(finding)]
            if removed:
                value = {field: part if field == "spec" else without_findings(part) for field, part in value.items()}
                data = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
                touched += sorted({f"{name}: {finding.field}" for finding in removed})
            found = [finding for finding in found if _decides_key(finding)]
        private += found
        files[name] = data
    if private:
        raise KdbenchError(_private(folder, private))
    return files, touched


def _decides_key(finding: Finding) -> bool:
    return finding.field == "spec" or finding.field.startswith("spec.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise KdbenchError(
            f"{path}: no such file. `kdbench run` on the study writes it, and repeats no training."
        ) from error


def _private(folder: Path, private: Sequence[Finding]) -> str:
    fixed = [f for f in private if not f.file.startswith("records/") or _decides_key(f)]
    lines = [f"{folder}: {plural(len(private), 'text')} that should not be made public:", *map(str, private[:20])]
    if len(private) > 20:
        lines.append(f"and {len(private) - 20} more")
    if len(fixed) < len(private):
        lines.append("--redact takes them out of the error lines and environments of records.")
    if fixed:
        lines.append(
            "What a study or a spec says decides the keys of its records: write data and checkpoints as paths relative "
            "to the data root (KDBENCH_DATA), and run the study again."
        )
    return "\n".join(lines)


def without_places(study: dict[str, Any]) -> dict[str, Any]:
    """A resolved study without the addresses of the Ray cluster and of the MLflow server that it used."""
    changed = {
        name: {**study[name], **{k: v for k, v in fixed.items() if k in study[name]}}
        for name, fixed in ELSEWHERE.items()
        if isinstance(study.get(name), dict)
    }
    return {**study, **changed}


def claims(board: Leaderboard) -> tuple[RowClaim, ...]:
    """The rows of a leaderboard as a submission states them; a method of which nothing was retrained claims nothing."""
    return tuple(
        RowClaim(
            id=row.id, pair=row.pair, kind=row.kind, method=row.method, student=row.student, n=len(row.scores),
            test_top1_pct=_rounded(row.score if row.scores else None), low=_rounded(row.interval.low),
            high=_rounded(row.interval.high),
        )
        for row in board.rows
        if row.kind != "missing"
    )  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS)


def surroundings(results: Results) -> dict[str, Any]:
    """Versions of kdbench, hardware and plug-ins behind a study's records, as a submission states them."""
    versions, hardware, plug_ins = set(), set(), {}
    for record in results.records:
        around = record.environment
        versions.add(str(around.get("versions", {}).get("kdbench", "unknown")))
        found = around.get("hardware", {})
        hardware |= {processor_label(str(found[kind])) for kind in ("cpu", "gpu") if found.get(kind)}
        for name, facts in around.get("plugins", {}).items():
            plug_ins[name, facts.get("sha256")] = {"name": name, **facts}
    return {
        "kdbench": tuple(sorted(versions or {kdbench.__version__})),
        "hardware": tuple(sorted(hardware)),
        "plug_ins": tuple(plug_ins[key] for key in sorted(plug_ins, key=str)),
    }
