"""Trained teachers that studies share: weights and record of a teacher or a source network, by the key of its spec.

<folder>/<key>.safetensors holds the weights, <key>.json the record and the SHA-256 of the weights. Whatever does not
fit, in any respect, is as good as not there: the network is trained.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbench import strict_json
from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord, TrialSpec
from kdbench.store import Store, write_atomic, write_json

PHASES = ("teacher", "source")
UNTRAINED = ("checkpoint", "ensemble")  # what stands for a method's name where a network is not trained

log = logging.getLogger(__name__)


class UnfitError(KdbenchError):
    """Something on the shelf that is damaged or of another kind."""


def shelf_folder() -> Path | None:
    """The folder, absolute: `teachers` in KDBENCH_CACHE, else in the user's cache folder of kdbench; None where
    KDBENCH_CACHE is `off`: then nothing is shared."""
    named = os.environ.get("KDBENCH_CACHE")
    if named == "off":
        return None
    if named:
        return Path(named).expanduser().resolve() / "teachers"
    import platformdirs  # inside, so that training itself needs nothing but torch and numpy

    return Path(platformdirs.user_cache_dir("kdbench")) / "teachers"


def put(store: Store, record: TrialRecord) -> bool:
    """Put a finished teacher or source network on the shelf; returns whether it is there now.

    One that is there and sound stays. A folder that cannot be written is a warning, for the study has what it needs.
    """
    folder = shelf_folder()
    shared = record.status == "finished" and record.spec.phase in PHASES and record.spec.method_name not in UNTRAINED
    if folder is None or not shared:
        return False
    try:
        _read(folder, record.key)
        return True
    except (OSError, UnfitError):
        pass  # not there, or to be replaced
    try:
        weights = store.weights_path(record.key).read_bytes()
        # in this order: a record is only there once its weights are, and names them
        write_atomic(folder / f"{record.key}.safetensors", weights)
        facts = {"record": record.to_json(), "weights_sha256": hashlib.sha256(weights).hexdigest()}
        write_json(folder / f"{record.key}.json", facts)
    except OSError as error:
        log.warning("%s: the %s %s is not shared with other studies: %s", folder, record.spec.phase, record.key, error)
        return False
    return True


def take(store: Store, spec: TrialSpec, data_hash: str, test_hash: str | None = None) -> TrialRecord | None:
    """Copy weights and record of a spec into a study's store; returns the record, or None if the shelf has none that
    fits. data_hash, test_hash: of the spec's data as they are now.

    A network fits if key, protocol, data, plug-ins and the networks that it learned from are the same, and its weights
    have their checksum. The record notes under `taken_from` that the network was trained for another study.
    """
    folder = shelf_folder()
    if folder is None or spec.phase not in PHASES:
        return None
    try:
        record, weights = _read(folder, spec.key)
        _require_same(record, spec, store, {"data_hash": data_hash, "test_hash": test_hash})
    except FileNotFoundError:
        return None
    except (OSError, UnfitError) as error:
        log.warning("%s: %s %s is trained again: %s", folder, spec.phase, spec.key, error)
        return None
    taken = replace(record, environment={**record.environment, "taken_from": "another study"})
    write_atomic(store.weights_path(spec.key), weights)
    store.write(taken)
    return taken


def _read(folder: Path, key: str) -> tuple[TrialRecord, bytes]:
    """Record and weights of a key. Raise UnfitError that says what is wrong, FileNotFoundError if there are none."""
    facts = json_of(folder / f"{key}.json")
    try:
        record = TrialRecord.from_json(facts["record"])
    except (KdbenchError, KeyError, TypeError) as error:
        raise UnfitError(f"its record cannot be used ({error})") from error
    if record.key != key:
        raise UnfitError(f"its record is that of {record.key}")
    if record.status != "finished" or record.spec.phase not in PHASES:
        raise UnfitError(f"its record is that of a {record.spec.phase} training that is {record.status}")
    weights = (folder / f"{key}.safetensors").read_bytes()
    if hashlib.sha256(weights).hexdigest() != facts.get("weights_sha256"):
        raise UnfitError("its weights do not fit their checksum")
    return record, weights


def json_of(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping. Raise UnfitError for any other."""
    try:
        found = strict_json.read(path)
    except ValueError as error:
        raise UnfitError(f"{path.name} is damaged") from error
    if not isinstance(found, dict):
        raise UnfitError(f"{path.name} holds no mapping")
    return found


def _require_same(record: TrialRecord, spec: TrialSpec, store: Store, hashes: Mapping[str, str | None]) -> None:
    """Raise UnfitError unless data, plug-ins and the networks that the training began with are what they are here."""
    from kdbench.train.environment import changed_plugins

    for name, now in hashes.items():
        then = record.environment.get(name)
        if now is not None and then != now and (name, then) != ("test_hash", None):
            raise UnfitError(f"it was made with other data ({name} {str(then)[:12]}, now {now[:12]})")
    for role, key in (("teacher", spec.teacher), ("init", spec.init)):
        if key is not None and record.environment.get(f"{role}_hash") != _file_hash(store.weights_path(key)):
            raise UnfitError(f"it learned from other weights of its {role} {key}")
    if changed := changed_plugins(record):
        raise UnfitError(f"the source of {' and '.join(changed)} has changed")


def _file_hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


@dataclass(frozen=True)
class Shelved:
    """One network of the shelf. state: "sound", or why it cannot be used; what: its model, data and accuracy."""

    key: str
    state: str
    what: str
    disk_bytes: int


def list_shelf() -> list[Shelved]:
    """Every network of the shelf by key, damaged ones among them; their checksums are computed."""
    folder = shelf_folder()
    keys = sorted({path.stem for path in _files(folder)})
    return [_describe(folder, key) for key in keys] if folder is not None else []


def clear_shelf() -> int:
    """Remove all networks from the shelf; returns the bytes set free. Studies that took one keep their copy."""
    freed = 0
    for path in _files(shelf_folder()):
        freed += path.stat().st_size
        path.unlink(missing_ok=True)
    return freed


def _files(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".partial") and p.is_file())


def _describe(folder: Path, key: str) -> Shelved:
    size = sum(path.stat().st_size for path in _files(folder) if path.stem == key)
    try:
        record, _ = _read(folder, key)
    except (OSError, UnfitError) as error:
        reason = "left half made" if isinstance(error, FileNotFoundError) else str(error)
        return Shelved(key, reason, "", size)
    from kdbench.labels import model_label

    spec, top1 = record.spec, record.result.get("test_top1_pct", record.result.get("val_top1_pct"))
    accuracy = f", {top1:.2f} %" if top1 is not None else ""
    data = spec.data.get("name") or spec.data.get("folder", "data of your own")
    return Shelved(key, "sound", f"{spec.phase} {model_label(spec.model)} on {data}{accuracy}", size)
