"""Trainings that a person wants to have run again: their records are set aside, never deleted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kdbench.errors import KdbenchError, RecordError, did_you_mean, listed
from kdbench.labels import plural
from kdbench.record import STATUSES, TrialRecord, TrialSpec
from kdbench.store import Store, parse_record

FOLDER = "superseded"
WORDS = tuple(status for status in STATUSES if status != "finished")
DIGITS = 4  # of a key that have to be given


def select(records: Mapping[str, TrialRecord], asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """Keys of the records that words such as `failed`, or the beginnings of keys, name; and a line for each word that
    fits none. With a network go the students that failed for want of it.

    Raise KdbenchError for what is no word, and no key or the beginning of several.
    """
    chosen: dict[str, None] = {}
    lines = []
    for text in asked:
        if text in WORDS:
            found = [key for key, record in records.items() if record.status == text]
            lines += [] if found else [f"--rerun {text}: no training has this status."]
        else:
            found = [one_key(text, records, "--rerun")]
        chosen |= dict.fromkeys(found)
    for key, record in records.items():
        needed = (record.spec.teacher, record.spec.init, *record.spec.members)
        if record.status == "failed" and any(name in chosen for name in needed):
            chosen[key] = None
    return list(chosen), lines


def one_key(text: str, keys: Mapping[str, object], option: str) -> str:
    """The one key that begins with `text`. Raise KdbenchError that says what there is."""
    fitting = [key for key in keys if key.startswith(text)] if len(text) >= DIGITS else []
    if len(fitting) == 1:
        return fitting[0]
    allowed = f"Allowed: {listed(WORDS)}, or the first digits of a record's key, {DIGITS} at least."
    if fitting:
        raise KdbenchError(
            f"{option}: '{text}' is the beginning of {listed(sorted(fitting))}. Give more digits of one."
        )
    raise KdbenchError(
        f"{option}: no record of the study is named '{text}'.{did_you_mean(text, WORDS)} {allowed} "
        "`kdbench status STUDY --failed` lists the keys."
    )


def set_aside(store: Store, records: Mapping[str, TrialRecord], asked: Sequence[str]) -> tuple[set[str], list[str]]:
    """Move the records that `asked` names to records/superseded; return their keys, and what to say of it."""
    chosen, lines = select(records, asked)
    folder = superseded_folder(store)
    if chosen:
        folder.mkdir(exist_ok=True)
    for key in chosen:
        store.record_path(key).replace(_free_place(folder, key))
    if chosen:
        lines.append(f"{plural(len(chosen), 'record')} set aside in {folder}: run again.")
    return set(chosen), lines


def superseded(store: Store, key: str | None = None) -> Iterator[tuple[Path, TrialRecord]]:
    """The records that were set aside, with their files, the oldest of each key first; those that cannot be read are
    passed over."""
    folder = superseded_folder(store)
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.json"), key=_number):
        try:
            record = parse_record(path.read_bytes())
        except (OSError, ValueError, TypeError, KeyError, RecordError):
            continue
        if key in (None, record.key):
            yield path, record


def to_run_again(store: Store, found: Mapping[str, TrialRecord], kept: Mapping[str, TrialRecord]) -> list[TrialSpec]:
    """The trainings whose record was taken away to run them again: by hand, or since the machine lost them."""
    return [
        *(record.spec for _, record in superseded(store) if record.key not in kept),
        *(record.spec for key, record in found.items() if key not in kept),
    ]


def superseded_folder(store: Store) -> Path:
    """Where records go that were run again. Raise KdbenchError if a link leads it out of the study's folder."""
    folder = store.records_folder / FOLDER
    if not folder.resolve().is_relative_to(store.folder):
        raise KdbenchError(f"{folder}: a symbolic link leads out of the study's folder. Remove it.")
    return folder


def _free_place(folder: Path, key: str) -> Path:
    places = itertools.chain([folder / f"{key}.json"], (folder / f"{key}.{n}.json" for n in itertools.count(2)))
    return next(place for place in places if not place.exists())


def _number(path: Path) -> tuple[str, int]:
    """`KEY.json` before `KEY.2.json` before `KEY.10.json`."""
    key, _, number = path.stem.partition(".")
    return key, int(number) if number.isdigit() else 1
